"""How large the frames of an AVIF file are, from the AV1 data itself.

The size that the container states (`ispe`) is that of the result: a decoder makes a frame of
whatever size the AV1 data has, and scales it afterwards. Sources: ISO/IEC 14496-12 (boxes), AV1
Bitstream & Decoding Process Specification, section 5.5 (sequence headers).
"""

from collections.abc import Container, Iterator

# Boxes with boxes within, and where these begin.
CONTAINERS = {b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"meta": 4, b"iinf": 6}
SEQUENCE_HEADER = 1  # type of an OBU, a unit of AV1 data
UNIT_TYPES = {*range(1, 9), 15}
MAX_UNITS = 100_000  # OBUs of a file; its first frame has a handful, or one of each cell of a grid
MAX_SHARED = 4  # times the file's bytes that its items may have together; some share theirs


def max_frame_pixels(content: bytes) -> int | None:
    """Pixels of the largest frame that a decoder may make of an AVIF file.

    Returns:
        None: no sequence header was found, without which nothing can be decoded.

    Raises:
        ValueError: there is more to read than a still image has.
    """
    largest = None
    units = (pixels for data in _coded_data(content) for pixels in _units(data))
    for number, pixels in enumerate(units):
        if number >= MAX_UNITS:
            raise ValueError(f"it has more than {MAX_UNITS:,} parts")
        if pixels is not None:
            largest = max(largest or 0, pixels)
    return largest


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Types and contents of all boxes, those within containers included."""
    while len(data) >= 8:
        size, kind, start = int.from_bytes(data[:4], "big"), bytes(data[4:8]), 8
        if size == 1:
            size, start = int.from_bytes(data[8:16], "big"), 16
        size = size or len(data)
        if size < start:
            return
        body, data = data[start:size], data[size:]
        yield kind, body
        if kind in CONTAINERS:
            longer = 2 if kind == b"iinf" and body[:1] != b"\0" else 0
            yield from _boxes(body[CONTAINERS[kind] + longer :])


def _coded_data(content: bytes) -> Iterator[bytes | memoryview]:
    """Data of every AV1 item, and the first sample of every track."""
    whole = memoryview(content)
    boxes = list(_boxes(whole))
    inline = b"".join(body for kind, body in boxes if kind == b"idat")
    coded = {
        _item_id(body) for kind, body in boxes if kind == b"infe" and b"av01" in bytes(body[:12])
    }
    sample = len(content)  # bytes of the first one, where `stsz` comes before its offset
    for kind, body in boxes:
        if kind == b"iloc":
            yield from _items(_Bytes(body), content, inline, coded)
        elif kind == b"stsz":
            sample = int.from_bytes(body[4:8], "big") or int.from_bytes(body[12:16], "big")
        elif kind in (b"stco", b"co64"):
            start = int.from_bytes(body[8 : 12 if kind == b"stco" else 16], "big")
            yield whole[start : start + sample]
            sample = len(content)


def _item_id(body: memoryview) -> int:
    """The id of an item that an `infe` box describes."""
    return int.from_bytes(body[4:6] if body[0] < 3 else body[4:8], "big")


def _items(
    reader: "_Bytes", content: bytes, inline: bytes, wanted: Container[int]
) -> Iterator[bytes]:
    version = reader.take(4) >> 24
    sizes = reader.take(2)
    offset_size, length_size, base_size, index_size = (
        (sizes >> shift) & 15 for shift in (12, 8, 4, 0)
    )
    wide = 4 if version == 2 else 2
    left = MAX_SHARED * len(content) + 2**20
    for _ in range(reader.take(wide)):
        if reader.empty:
            return
        if left < 0:
            raise ValueError("its items share more data than it has")
        item = reader.take(wide)
        source = inline if version and reader.take(2) & 15 else content
        reader.take(2)
        base = reader.take(base_size)
        parts = []
        for _ in range(reader.take(2)):
            if version:
                reader.take(index_size)
            start = base + reader.take(offset_size)
            length = reader.take(length_size)
            parts.append(source[start : start + length] if length else source[start:])
            if reader.empty or sum(map(len, parts)) > len(content):
                break
        if item in wanted:
            left -= sum(map(len, parts))
            yield b"".join(parts)


class _Bytes:
    """Whole numbers read one after the other; zeros behind the end."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    @property
    def empty(self) -> bool:
        return self._at > len(self._data)

    def take(self, count: int) -> int:
        self._at += count
        return int.from_bytes(self._data[self._at - count : self._at], "big")


def _units(data: bytes | memoryview) -> Iterator[int | None]:
    """For each OBU the pixels of the frames that it announces; None: it is no sequence header."""
    at = 0
    while at < len(data):
        head = data[at]
        if head & 0x81 or (head >> 3) & 15 not in UNIT_TYPES:
            return  # a decoder stops here, too
        at += 2 if head & 4 else 1  # with an extension
        size, shift = 0, 0
        if head & 2:
            while at < len(data) and shift < 56:
                size |= (data[at] & 127) << shift
                at, shift = at + 1, shift + 7
                if not data[at - 1] & 128:
                    break
        else:
            size = len(data) - at
        if (head >> 3) & 15 == SEQUENCE_HEADER:
            yield _pixels(bytes(data[at : at + min(size, 1024)]))
        else:
            yield None
        at += size


def _pixels(header: bytes) -> int:
    bits = _Bits(header)
    bits.take(4)  # profile, still picture
    still = bits.take(1)
    if still:
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits), bits.take(height_bits)
    if not still:
        # A frame may state a size of its own in as many bits, which are no more than needed.
        width = width if width_bits <= width.bit_length() + 1 else 2**width_bits - 1
        height = height if height_bits <= height.bit_length() + 1 else 2**height_bits - 1
    return (width + 1) * (height + 1)


def _skip_operating_points(bits: "_Bits") -> None:
    delay_bits = 0
    timing = bits.take(1)
    if timing:
        bits.take(64)
        if bits.take(1):
            zeros = 0
            while zeros < 32 and not bits.take(1):
                zeros += 1
            bits.take(zeros)
        if bits.take(1):
            delay_bits = bits.take(5) + 1
            bits.take(42)
    display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if display_delay and bits.take(1):
            bits.take(4)


class _Bits:
    """Whole numbers of some bits, read one after the other; zeros behind the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        value = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return value & ((1 << count) - 1)

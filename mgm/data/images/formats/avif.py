"""Parses the frame sizes of an AVIF file from its AV1 bitstream.

The size in the container (`ispe`) is that of the output: a decoder allocates frames of the size in
the AV1 bitstream and scales them afterwards. Sources: ISO/IEC 14496-12 (boxes), AV1 Bitstream &
Decoding Process Specification, section 5.5 (sequence headers).
"""

from collections.abc import Container, Iterator

# Container boxes, and the offset of the boxes inside.
CONTAINERS = {b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"meta": 4, b"iinf": 6}
SEQUENCE_HEADER = 1  # type of an OBU (open bitstream unit) of AV1
UNIT_TYPES = {*range(1, 9), 15}
MAX_UNITS = 100_000  # maximum OBUs of a file; a frame has a few, or a few for each cell of a grid
MAX_SHARED = 4  # maximum total size of items in multiples of the file size; items may share bytes


def max_frame_pixels(content: bytes) -> int | None:
    """Pixels of the largest frame that a decoder may allocate for an AVIF file.

    Returns:
        None: there is no sequence header, so that nothing can be decoded.

    Raises:
        ValueError: the file has more items or OBUs than a still image.
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
    """Types and contents of all boxes, also of those inside container boxes."""
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
    """The data of each AV1 item, and of the first sample of each track."""
    whole = memoryview(content)
    boxes = list(_boxes(whole))
    inline = b"".join(body for kind, body in boxes if kind == b"idat")
    coded = {
        _item_id(body) for kind, body in boxes if kind == b"infe" and b"av01" in bytes(body[:12])
    }
    sample = len(content)  # size of the first sample, if `stsz` precedes its offset
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
    """The id of the item of an `infe` box."""
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
    """Byte reader of big-endian integers; reads zeros beyond the end."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    @property
    def empty(self) -> bool:
        return self._at > len(self._data)

    def take(self, count: int) -> int:
        self._at += count
        return int.from_bytes(self._data[self._at - count : self._at], "big")


def _units(data: bytes | memoryview) -> Iterator[int | None]:
    """For each OBU the maximum pixels of a frame; None: not a sequence header."""
    at = 0
    while at < len(data):
        head = data[at]
        if head & 0x81 or (head >> 3) & 15 not in UNIT_TYPES:
            return  # a decoder stops here too
        at += 2 if head & 4 else 1  # extension header
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
        # A frame header may have another size, limited by the same number of bits.
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
    """Bit reader of integers; reads zeros beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        value = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return value & ((1 << count) - 1)

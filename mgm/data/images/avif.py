"""How large the frames of an AVIF file are, from the AV1 data itself.

The size that the container states (`ispe`) is that of the result: a decoder makes a frame of
whatever size the AV1 data has, and scales it afterwards. Sources: ISO/IEC 14496-12 (boxes), AV1
Bitstream & Decoding Process Specification, section 5.5 (sequence headers).
"""

from collections.abc import Iterator

CONTAINERS = (b"meta", b"moov", b"trak", b"mdia", b"minf", b"stbl")
SEQUENCE_HEADER = 1  # type of an OBU, a unit of AV1 data
MAX_UNITS = 10_000  # that are looked at


def max_frame_pixels(content: bytes) -> int | None:
    """Pixels of the largest frame that a decoder may make of an AVIF file.

    Returns:
        None: no sequence header was found, without which nothing can be decoded.
    """
    found = [pixels for data in _coded_data(content) for pixels in _sequence_headers(data)]
    return max(found, default=None)


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
            yield from _boxes(body[4:] if kind == b"meta" else body)


def _coded_data(content: bytes) -> Iterator[bytes]:
    """Data of every item, and what lies where the chunks of every track begin."""
    whole = memoryview(content)
    boxes = list(_boxes(whole))
    inline = b"".join(body for kind, body in boxes if kind == b"idat")
    for kind, body in boxes:
        if kind == b"iloc":
            yield from _items(_Bytes(body), content, inline)
        elif kind in (b"stco", b"co64"):
            width = 4 if kind == b"stco" else 8
            for at in range(8, len(body) - width + 1, width):
                yield content[int.from_bytes(body[at : at + width], "big") :]


def _items(reader: "_Bytes", content: bytes, inline: bytes) -> Iterator[bytes]:
    version = reader.take(4) >> 24
    sizes = reader.take(2)
    offset_size, length_size, base_size, index_size = (
        (sizes >> shift) & 15 for shift in (12, 8, 4, 0)
    )
    wide = 4 if version == 2 else 2
    for _ in range(reader.take(wide)):
        if reader.empty:
            return
        reader.take(wide)  # the item's id
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


def _sequence_headers(data: bytes) -> Iterator[int]:
    """Pixels of the frames that each sequence header announces."""
    at = 0
    for _ in range(MAX_UNITS):
        if at >= len(data):
            return
        head = data[at]
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
            yield _pixels(data[at : at + min(size, 1024)])
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

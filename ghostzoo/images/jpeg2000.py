"""JPEG 2000: the size, and whether the decoder's structures are in proportion to it.

The decoder makes structures for each tile, precinct and code block before it looks at any pixels; a file of 10 KB may
declare so many that they take 6 GB. Sections of ISO/IEC 15444-1, annex A, are named below.
"""

from __future__ import annotations

import struct

from .container import CODE_STREAM, DAMAGED, TRUNCATED, Alpha, Header, HeaderError

_START, _SIZE, _CODING, _COMPONENT_CODING, _TILE_PART, _DATA, _END = 0x4F, 0x51, 0x52, 0x53, 0x90, 0x93, 0xD9
_SEGMENTS = frozenset({0x50, _SIZE, _CODING, _COMPONENT_CODING, 0x55, 0x57, 0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F})
_SEGMENTS |= {0x60, 0x61, 0x63, 0x64, 0x74, 0x75, 0x77, 0x78}
"""Markers with a length that the decoder knows; it looks for the next that it knows after any other."""
_MOST_PARTS = 100_000
"""Boxes, segments and tile parts."""
_MOST_TILES = 16_384
"""Each takes the decoder 7 KB; 100 megapixels in tiles of 128 x 128 are 6,104."""
_MOST_COMPONENTS = 4
"""The decoder of files takes no more, but makes structures for all first."""
_MOST_LAYERS = 256
"""Writers make 1 to 50; the decoder counts packets for each layer, precinct and component."""
_MOST_PRECINCTS = 40_000
"""Of a component. Three take the decoder 5 KB; 100 megapixels in precincts of 64 x 64 are 33,000."""
_MOST_CODE_BLOCKS = 400_000
"""Of a component. Each takes the decoder 200 bytes; 100 megapixels in blocks of 16 x 16 are 390,000."""
_TOO_MANY = "it has more or smaller parts than its picture needs; save it again"


def read_jpeg2000(data: bytes) -> Header:
    """The size is the code stream's, not the box's: that is the one that is decoded."""
    position = 2 if data.startswith(CODE_STREAM) else _code_stream(data)
    size: tuple[int, int] | None = None
    tile_end: int | None = None
    for _ in range(_MOST_PARTS):
        marker = struct.unpack_from(">H", data, position)[0] - 0xFF00
        if marker == _END and size:
            return Header(*size, data, alpha=Alpha.STRAIGHT)
        if marker == _DATA and size and tile_end is not None:
            if tile_end <= position or tile_end >= len(data):  # the last tile part: no more headers are read
                return Header(*size, data, alpha=Alpha.STRAIGHT)
            position = tile_end
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker == _TILE_PART:
            (whole,) = struct.unpack_from(">L", data, position + 6)
            tile_end = position + whole
        elif marker not in _SEGMENTS:
            raise HeaderError(DAMAGED)
        elif marker == _SIZE and size is None:
            size = _size(data, position)
        elif marker in (_CODING, _COMPONENT_CODING):
            if size is None:
                raise HeaderError(DAMAGED)
            _check_coding(data[position + 4 : position + 2 + length], size, layers=marker == _CODING)
        position += 2 + length
    raise HeaderError(_TOO_MANY)


def _code_stream(data: bytes) -> int:
    """Where the first segment after the start of the code stream is."""
    position = 0
    for _ in range(_MOST_PARTS):
        length, kind = struct.unpack_from(">L4s", data, position)
        content = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, content)
            content += 8
        if kind == b"jp2c":
            if struct.unpack_from(">H", data, content)[0] != 0xFF00 + _START:
                raise HeaderError(DAMAGED)
            return content + 2
        if length < content - position:
            raise HeaderError(DAMAGED)
        position += length
        if position > len(data):
            raise HeaderError(TRUNCATED)
    raise HeaderError(_TOO_MANY)


def _size(data: bytes, position: int) -> tuple[int, int]:
    """A.5.1: the size of the image, whose tiles and components are checked."""
    right, bottom, left, top, across, down, first, upper, components = struct.unpack_from(">8LH", data, position + 6)
    if not across or not down or right <= left or bottom <= top or first > left or upper > top:
        raise HeaderError(DAMAGED)
    tiles = -(-(right - first) // across) * -(-(bottom - upper) // down)
    if tiles > _MOST_TILES or components > _MOST_COMPONENTS:
        raise HeaderError(_TOO_MANY)
    return right - left, bottom - top


def _check_coding(content: bytes, size: tuple[int, int], *, layers: bool) -> None:
    """A.6.1 and A.6.2: raise ``HeaderError`` if there are too many layers, precincts or code blocks."""
    if layers and struct.unpack_from(">H", content, 2)[0] > _MOST_LAYERS:
        raise HeaderError(_TOO_MANY)
    start = 5 if layers else 2  # a component's begins with its number, one byte where there are fewer than 257
    levels, width, height = struct.unpack_from("BBB", content, start)
    if size[0] * size[1] >> (width & 15) + 2 + (height & 15) + 2 > _MOST_CODE_BLOCKS:
        raise HeaderError(_TOO_MANY)
    own_precincts = content[start - 5 if layers else start - 1] & 1
    precincts = 0
    for resolution, exponents in enumerate(content[start + 5 : start + 6 + levels] if own_precincts else b""):
        across, down = ((levels - resolution + exponent) for exponent in (exponents & 15, exponents >> 4))
        precincts += ((size[0] >> across) + 1) * ((size[1] >> down) + 1)
    if precincts > _MOST_PRECINCTS:
        raise HeaderError(_TOO_MANY)

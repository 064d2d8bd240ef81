"""TIFF: the first page's size, and whether what its directory says is in proportion to the file."""

from __future__ import annotations

import struct

import numpy as np

from .container import Header, HeaderError

_SIZES = {256: "width", 257: "height", 322: "tile width", 323: "tile height"}
_INTEGERS = {3: "H", 4: "I"}
_BYTE_COUNTS = (279, 325)
"""StripByteCounts and TileByteCounts."""
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""A field type's size: TIFF 6.0, section 2, and BigTIFF's types, which the decoder takes too."""
_MOST_TIMES_READ = 4
"""How often fields may have the file's bytes read and kept: once in an ordinary file; some name bytes not there."""
_PIXEL_BYTES = 8
"""Of the deepest pixel that is read, 16 bits of RGBA."""


def read_tiff(data: bytes) -> Header:
    """The size is filled up to whole tiles: a small image may have one huge tile."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}L", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    sizes: dict[int, int] = {}
    fields = pixels = 0
    counted: set[int] = set()
    for position in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHL", data, position)
        fields += min(_VALUE_BYTES.get(kind, 0) * values, len(data))
        if tag in _BYTE_COUNTS and tag not in counted:  # the decoder takes the first too
            counted.add(tag)
            pixels += _total(data, order, position)
        if tag not in _SIZES:
            continue
        if tag in sizes or kind not in _INTEGERS or values != 1:
            raise HeaderError(f"its header gives the {_SIZES[tag]} twice or in no valid form; save it again")
        (sizes[tag],) = struct.unpack_from(order + _INTEGERS[kind], data, position + 8)
    if not {256, 257} <= sizes.keys():
        raise HeaderError("its header gives no size; save it again")
    width, height = _whole(sizes[256], sizes.get(322, 0)), _whole(sizes[257], sizes.get(323, 0))
    if fields > _MOST_TIMES_READ * len(data) or pixels > len(data) + _PIXEL_BYTES * width * height:
        raise HeaderError("its header has the same data read many times; save it again")
    return Header(width, height, data)


def _total(data: bytes, order: str, position: int) -> int:
    """The sum of an entry's integers: how many bytes of pixels are decompressed, be they the same ones or not."""
    kind, count = struct.unpack_from(f"{order}HL", data, position + 2)
    if kind not in _INTEGERS:
        return 0
    size = _VALUE_BYTES[kind]
    start = position + 8
    if size * count > 4:
        (start,) = struct.unpack_from(f"{order}L", data, start)
    count = min(count, max(0, len(data) - start) // size)
    if not count:
        return 0
    values = np.frombuffer(data, np.dtype(order + _INTEGERS[kind]), count, start)
    return int(np.minimum(values, len(data)).sum(dtype=np.int64))


def _whole(pixels: int, tile: int) -> int:
    return -(-pixels // tile) * tile if tile else pixels

"""WebP: the size of the canvas that the decoder allocates, and the orientation."""

from __future__ import annotations

import struct

from .container import DAMAGED, TRUNCATED, Alpha, Header, HeaderError
from .exif import check_exif, read_orientation

_HEADER = 32
"""The decoder requires at least this many bytes."""
_MOST_CHUNKS = 100_000
"""Each frame of an animation is one."""
_HAS_EXIF = 8
"""A flag of VP8X; without it decoders ignore EXIF data."""


def read_webp(data: bytes) -> Header:
    """The canvas counts: the decoder refuses a picture or frame that does not fit it."""
    if len(data) < _HEADER:
        raise HeaderError(TRUNCATED)
    kind = data[12:16]
    exif: list[memoryview] = []
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[start : start + 3], "little") for start in (24, 27))
        exif = _exif(data) if data[20] & _HAS_EXIF else []
    elif kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<L", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise HeaderError(DAMAGED)
    orientation = read_orientation(exif[0]) if exif else None
    return Header(width, height, data, orientation=orientation or 1, alpha=Alpha.STRAIGHT, reusable=True)


def _exif(data: bytes) -> list[memoryview]:
    """The EXIF chunks; their size and the number of all chunks are checked."""
    view, position = memoryview(data), 12
    found: list[memoryview] = []
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(data):
            check_exif(*found)
            return found
        kind, length = struct.unpack_from("<4sL", data, position)
        if kind == b"EXIF":
            found.append(view[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    raise HeaderError(f"it has more than {_MOST_CHUNKS} chunks; save it again")

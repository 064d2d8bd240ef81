"""BMP and Sun raster: the size, as the decoder reads it."""

from __future__ import annotations

import struct

from .container import DAMAGED, Alpha, Header, HeaderError

_OS2 = 12
"""Bytes of the header of OS/2 1.x, BITMAPCOREHEADER, whose sides have 16 bits."""
_WINDOWS = 36
"""Headers of at least this many bytes, those of OS/2 2.x and Windows, have sides of 32 bits."""


def read_bmp(data: bytes) -> Header:
    """A negative height means that rows are stored from top to bottom."""
    (size,) = struct.unpack_from("<l", data, 14)
    if size == _OS2:
        width, height = struct.unpack_from("<HH", data, 18)
    elif size >= _WINDOWS:
        width, height = struct.unpack_from("<ll", data, 18)
    else:
        raise HeaderError(DAMAGED)
    return Header(width, abs(height), data, alpha=Alpha.STRAIGHT)


def read_sun_raster(data: bytes) -> Header:
    width, height = struct.unpack_from(">ll", data, 4)
    return Header(width, height, data)

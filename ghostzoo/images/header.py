"""Encoded image -> its size, from its header alone and exactly as the decoder reads that header, and what to decode.

A limit that is checked before decoding is worth nothing if a crafted file shows the check one size and the decoder
another. So what could be read in two ways is refused here, or read as the decoder does. The same holds for a file that
crashes the decoder, or that takes time and memory out of proportion to itself and its picture.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from .bitmap import SUN_RASTER, read_bmp, read_sun_raster
from .container import Header, HeaderError
from .gif import read_gif
from .heif import is_heif, read_heif
from .jpeg import SIGNATURE as JPEG
from .jpeg import read_jpeg
from .jpeg2000 import CODE_STREAM, read_jpeg2000
from .jpeg2000 import SIGNATURE as JPEG2000
from .png import SIGNATURE as PNG
from .png import read_png
from .pnm import read_pam, read_pnm
from .tiff import SIGNATURES as TIFF
from .tiff import read_tiff
from .webp import read_webp

FORMATS = "JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP, TIFF, PNM, PAM, JPEG 2000 or Sun raster"

_PNM = re.compile(rb"P[1-6]\s")
_PAM = (b"P7\n", b"P7\r")
_FLOATING_POINT = re.compile(rb"P[Ff]\s|#\?RGBE|#\?RADIANCE")
"""PFM and Radiance HDR."""


def read_header(data: bytes, *, lenient: bool = False) -> Header:
    """Return the size of the encoded image ``data``, and what to decode.

    Args:
        data: the file.
        lenient: accept a JPEG whose end is missing, and find where it may be cut.

    Raises:
        HeaderError: the format is not read, its header is damaged, ambiguous or out of proportion, or the file's end
            is missing.
    """
    try:
        if data.startswith(JPEG):
            return read_jpeg(data, lenient=lenient)
        for signatures, reader in _READERS:
            if data.startswith(signatures):
                return reader(data)
        if _PNM.match(data):
            return read_pnm(data)
        if is_heif(data):
            return read_heif(data)
    except struct.error as error:
        raise HeaderError("its header is truncated; get the file again") from error
    if _FLOATING_POINT.match(data):
        raise HeaderError("floating-point pixels have no defined range; convert it to PNG")
    raise HeaderError(f"it is no image in a format that is read ({FORMATS})")


_READERS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes], Header]], ...] = (
    (PNG, read_png),
    (b"RIFF", read_webp),
    ((b"GIF87a", b"GIF89a"), read_gif),
    (b"BM", read_bmp),
    (TIFF, read_tiff),
    ((JPEG2000, CODE_STREAM), read_jpeg2000),
    (_PAM, read_pam),
    (SUN_RASTER, read_sun_raster),
)
"""Signatures of a format, and the function that reads its header."""

"""Encoded image -> its size, from its header alone and exactly as the decoder reads that header, and what to decode.

A limit that is checked before decoding is worth nothing if a crafted file shows the check one size and the decoder
another. So what could be read in two ways is refused here, or read as the decoder does. The same holds for a file that
crashes the decoder, or that takes time and memory out of proportion to itself and its picture.
"""

from __future__ import annotations

import re
import struct
from importlib import import_module

from .container import CODE_STREAM, JPEG, PNG, Header, HeaderError

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
            from .jpeg import read_jpeg

            return read_jpeg(data, lenient=lenient)
        for signatures, module, reader in _READERS:
            if data.startswith(signatures):
                header: Header = getattr(import_module(f".{module}", __package__), reader)(data)
                return header
        if _PNM.match(data):
            from .pnm import read_pnm

            return read_pnm(data)
        if data[4:8] == b"ftyp":
            from .heif import is_heif, read_heif

            if is_heif(data):
                return read_heif(data)
    except struct.error as error:
        raise HeaderError("its header is truncated; get the file again") from error
    if _FLOATING_POINT.match(data):
        raise HeaderError("floating-point pixels have no defined range; convert it to PNG")
    raise HeaderError(f"it is not an image in a supported format ({FORMATS})")


_READERS: tuple[tuple[bytes | tuple[bytes, ...], str, str], ...] = (
    (PNG, "png", "read_png"),
    (b"RIFF", "webp", "read_webp"),
    ((b"GIF87a", b"GIF89a"), "gif", "read_gif"),
    (b"BM", "bitmap", "read_bmp"),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "tiff", "read_tiff"),
    ((b"\0\0\0\x0cjP  ", CODE_STREAM), "jpeg2000", "read_jpeg2000"),
    (_PAM, "pnm", "read_pam"),
    (b"\x59\xa6\x6a\x95", "bitmap", "read_sun_raster"),
)
"""Signatures of a format, and the module and function that read its header, imported when there is such an image."""

"""Encoded image -> its size, from its header alone and exactly as the decoder reads that header, and what to decode.

A limit that is checked before decoding is worth nothing if a crafted file shows the check one size and the decoder
another. So what could be read in two ways is refused here, or read as the decoder does. The same holds for a file that
crashes the decoder, or that takes time and memory out of proportion to itself and its picture.
"""

from __future__ import annotations

import io
import re
import struct

from .container import DAMAGED, Header, HeaderError
from .exif import check_exif
from .gif import read_gif
from .jpeg import read_jpeg
from .jpeg2000 import SIGNATURE as JPEG2000
from .jpeg2000 import read_jpeg2000
from .png import SIGNATURE as PNG
from .png import read_png
from .tiff import read_tiff

FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF, PNM or JPEG 2000"

_PNM = re.compile(rb"P[1-6](?=\s)(?:\s|#[^\r\n]*[\r\n])*(\d{1,9})\s(?:\s|#[^\r\n]*[\r\n])*(\d{1,9})\s")
_PNM_HEADER = 2**16
"""Bytes that are searched for the size; the search takes 40 times as much memory."""
_MOST_CHUNKS = 100_000
"""Of a WebP file; each frame of an animation is one."""


def read_header(data: bytes) -> Header:
    """Return the size of the encoded image ``data``, and what is to be decoded.

    Raises:
        HeaderError: the format is not read, its header is damaged, ambiguous or out of proportion, or the file's end
            is missing.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return read_jpeg(data)
        if data.startswith(PNG):
            return read_png(data)
        if data.startswith((b"II*\0", b"MM\0*")):
            return read_tiff(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return read_gif(data)
        if re.match(rb"P[1-6]\s", data):
            return _read_pnm(data)
        if data.startswith(JPEG2000):
            return read_jpeg2000(data)
        return _read_other(data)
    except struct.error as error:
        raise HeaderError("its header is truncated; get the file again") from error


def _read_pnm(data: bytes) -> Header:
    match = _PNM.match(data, 0, _PNM_HEADER)
    if match is None:
        raise HeaderError(DAMAGED)
    return Header(int(match[1]), int(match[2]), data)


def _read_other(data: bytes) -> Header:
    if data[4:8] == b"ftyp":
        raise HeaderError("AVIF and HEIC are not read; convert it to PNG, or open it with PIL and pass the PIL image")
    if not data.startswith((b"RIFF", b"BM")):
        raise HeaderError(f"it is no image in a format that is read ({FORMATS})")
    import imagesize  # brings an XML parser and a URL opener along

    width, height = imagesize.get(io.BytesIO(data))
    if width == height == -1:
        raise HeaderError(f"its header is damaged, or it is in no format that is read ({FORMATS})")
    if data.startswith(b"RIFF"):
        _check_webp(data)
    return Header(int(width), int(height), data)


def _check_webp(data: bytes) -> None:
    """Raise ``HeaderError`` if its chunks are too many, or its EXIF data out of proportion."""
    view, position = memoryview(data), 12
    exif: list[memoryview] = []
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(data):
            check_exif(*exif)
            return
        kind, length = struct.unpack_from("<4sL", data, position)
        if kind == b"EXIF":
            exif.append(view[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    raise HeaderError(f"it has more than {_MOST_CHUNKS} chunks; save it again")

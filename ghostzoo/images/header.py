"""Encoded image -> how large it is, from its header alone and exactly as the decoder reads that header.

A limit that is checked before decoding is worth nothing if a crafted file shows the check one size and the decoder
another. So what could be read in two ways is refused here, or read as the decoder does.
"""

from __future__ import annotations

import io
import re
import struct

FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF, PNM or JPEG 2000"

_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
"""The next marker with a length: stuffed and fill bytes, restarts and TEM are passed over, as libjpeg does it."""
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK_EXTRA = 12
"""Bytes of a chunk besides its content: length, kind and checksum."""

_PNM = re.compile(rb"P[1-6](?=\s)(?:\s|#[^\r\n]*[\r\n])*(\d{1,9})\s(?:\s|#[^\r\n]*[\r\n])*(\d{1,9})\s")

_TIFF_SIZES = {256: "width", 257: "height", 322: "tile width", 323: "tile height"}
_TIFF_TYPES = {3: "H", 4: "L"}


class HeaderError(ValueError):
    """The size cannot be told; the message says why."""


def decoded_size(data: bytes) -> tuple[int, int]:
    """Return the width and height that decoding ``data`` takes, in pixels, before EXIF orientation.

    Raises:
        HeaderError: the format is not read, its header is damaged or ambiguous, or the file's end is missing.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg_size(data)
        if data.startswith(_PNG):
            return _png_size(data)
        if data.startswith((b"II*\0", b"MM\0*")):
            return _tiff_size(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack_from("<HH", data, 6)
            return width, height
        if re.match(rb"P[1-6]\s", data):
            return _pnm_size(data)
        return _other_size(data)
    except struct.error as error:
        raise HeaderError("its header is truncated; get the file again") from error


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """The first frame's size; a later one is the decoder's to refuse. Some decoders fill up a missing end with grey."""
    size = None
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == _JPEG_END and size is not None:
            return size
        (length,) = struct.unpack_from(">H", data, position)
        if marker in _JPEG_FRAMES and size is None:
            height, width = struct.unpack_from(">HH", data, position + 3)
            size = (width, height)
        elif marker == _JPEG_SCAN and size is not None and data.endswith(bytes((0xFF, _JPEG_END))):
            return size  # as most files end; the others' pixels are searched for the end
        position += max(length, 2)
    raise HeaderError("it is truncated; get the file again")


def _png_size(data: bytes) -> tuple[int, int]:
    """The one header's size. The decoder takes as much memory as a chunk claims, so each has to be there in full."""
    position, size = len(_PNG), None
    while True:
        length, kind = struct.unpack_from(">L4s", data, position)
        if length > len(data) - position - _PNG_CHUNK_EXTRA:
            raise HeaderError("it is truncated or damaged; get the file again")
        if (kind == b"IHDR") != (size is None):
            raise HeaderError("its header is damaged; save it again")
        if size is None:
            size = struct.unpack_from(">LL", data, position + 8)
        if kind == b"IEND":
            return size
        position += length + _PNG_CHUNK_EXTRA


def _pnm_size(data: bytes) -> tuple[int, int]:
    match = _PNM.match(data)
    if match is None:
        raise HeaderError("its header is damaged; save it again")
    return int(match[1]), int(match[2])


def _tiff_size(data: bytes) -> tuple[int, int]:
    """The first page's size, filled up to whole tiles: a small image may have one huge tile."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}L", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    sizes: dict[int, int] = {}
    for position in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHL", data, position)
        if tag not in _TIFF_SIZES:
            continue
        if tag in sizes or kind not in _TIFF_TYPES or values != 1:
            raise HeaderError(f"its header gives the {_TIFF_SIZES[tag]} twice or in no valid form; save it again")
        (sizes[tag],) = struct.unpack_from(order + _TIFF_TYPES[kind], data, position + 8)
    if not {256, 257} <= sizes.keys():
        raise HeaderError("its header gives no size; save it again")
    return _whole(sizes[256], sizes.get(322, 0)), _whole(sizes[257], sizes.get(323, 0))


def _whole(pixels: int, tile: int) -> int:
    return -(-pixels // tile) * tile if tile else pixels


def _other_size(data: bytes) -> tuple[int, int]:
    if data[4:8] == b"ftyp":
        raise HeaderError("AVIF and HEIC are not read; convert it to PNG, or open it with PIL and pass the PIL image")
    if not data.startswith((b"RIFF", b"BM", b"\0\0\0\x0cjP  ")):
        raise HeaderError(f"it is no image in a format that is read ({FORMATS})")
    import imagesize  # brings an XML parser and a URL opener along

    width, height = imagesize.get(io.BytesIO(data))
    if width == height == -1:
        raise HeaderError(f"its header is damaged, or it is in no format that is read ({FORMATS})")
    return int(width), int(height)

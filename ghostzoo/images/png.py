"""PNG: the size, and the file without all chunks that the picture does not need.

The decoder's reader of animations crashes on damaged frames, in every version of OpenCV since 4.12, and texts and
colour profiles are inflated only to be thrown away. Without their chunks there is no animation: the default image is
decoded, which most viewers without animation show, and which is the first frame unless the file says otherwise.
"""

from __future__ import annotations

import struct
import zlib
from functools import partial

from .container import DAMAGED, PNG, TRUNCATED, Alpha, Header, HeaderError
from .exif import check_exif, read_orientation

_CHUNK_EXTRA = 12
"""Bytes of a chunk besides its content: length, kind and checksum."""
_MOST_CHUNKS = 100_000
"""Writers put 8 KiB and more into each; a file of 100 MiB has some 13,000."""
_ANCILLARY = 0x20
"""The bit of a kind's first letter that says that a decoder may pass the chunk over."""
_TRANSPARENCY = b"tRNS"
"""The one ancillary chunk that changes the decoded pixels; the decoder ignores gamma and profiles."""
_RAW_PROFILE = b"Raw profile type exif\0"
"""Of a text in which ImageMagick and others kept EXIF data before there was a chunk for them."""
_MOST_PROFILE = 2**18
"""Bytes of such a text; JPEG, where the data come from, has room for half as many."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type -> samples a pixel: PNG specification, 11.2.1."""
_WITH_ALPHA = (4, 6)
"""Colour types."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7: first column, first row, steps between columns and rows; PNG specification, 8.1."""
_TRUSTED = 4 * 2**20
"""Bytes of compressed pixels that may inflate to anything: deflate makes at most 1,032 times as many, in about 8 s, and
to inflate more twice takes 1.8 times as long as to decode it."""
_SLACK = 2**20
"""Bytes that pixels may have too many, as careless writers leave them."""


def read_png(data: bytes) -> Header:
    """The decoder takes as much memory as a chunk claims, so each has to be there in full."""
    view = memoryview(data)
    kept: list[memoryview] = []
    pixels: list[memoryview] = []
    header, extras = None, _Extras()
    position, start = len(PNG), 0
    for _ in range(_MOST_CHUNKS):
        length, kind = struct.unpack_from(">L4s", data, position)
        if length > len(data) - position - _CHUNK_EXTRA:
            raise HeaderError(TRUNCATED)
        if (kind == b"IHDR") != (header is None):
            raise HeaderError(DAMAGED)
        content, end = view[position + 8 : position + 8 + length], position + length + _CHUNK_EXTRA
        if header is None:
            header = struct.unpack_from(">LLBBBBB", content)
        elif kind == b"IDAT":
            pixels.append(content)
        elif kind == b"IEND":
            kept.append(view[start:end])
            break
        elif kind[0] & _ANCILLARY:
            extras.take(kind, content)
            if kind != _TRANSPARENCY:
                kept.append(view[start:position])
                start = end
        position = end
    else:
        raise HeaderError(f"it has more than {_MOST_CHUNKS} chunks; save it again")
    depth, colour = header[2:4]
    transparent = extras.transparency is not None
    return Header(
        header[0],
        header[1],
        data if len(kept) == 1 else b"".join(kept),
        check_data=partial(_check_pixels, pixels, *header),
        orientation=extras.orientation(),
        reusable=True,
        alpha=Alpha.STRAIGHT if colour in _WITH_ALPHA or transparent else Alpha.NONE,
        transparent_grey=extras.transparent_grey(depth) if colour == 0 else None,
    )


class _Extras:
    """What the ancillary chunks say; of repeated ones, the first counts."""

    def __init__(self) -> None:
        self.transparency: memoryview | None = None
        self._exif: bytes | memoryview | None = None
        self._profile: bytes | None = None

    def take(self, kind: bytes, content: memoryview) -> None:
        if kind == _TRANSPARENCY and self.transparency is None:
            self.transparency = content
        elif kind == b"eXIf" and self._exif is None:
            check_exif(content)
            self._exif = content
        elif kind in (b"tEXt", b"zTXt") and content[: len(_RAW_PROFILE)] == _RAW_PROFILE and self._profile is None:
            text = content[len(_RAW_PROFILE) :]
            self._profile = bytes(text[:_MOST_PROFILE]) if kind == b"tEXt" else _inflated(text[1:])

    def orientation(self) -> int:
        """1 to 8, of EXIF data in their own chunk, or else in a text of hexadecimal digits."""
        exif = self._exif
        if exif is None and self._profile is not None:
            lines = self._profile.decode("latin-1").split("\n")  # nothing, the name, the length, the digits
            try:
                exif = bytes.fromhex("".join(lines[3:]))
            except ValueError:
                exif = None
        return read_orientation(exif or b"") or 1

    def transparent_grey(self, depth: int) -> int | None:
        """In 8 bits, as the decoder gives the grey values of a picture."""
        if self.transparency is None or len(self.transparency) != 2 or depth not in (1, 2, 4, 8, 16):
            return None
        (value,) = struct.unpack(">H", self.transparency)
        return int(value >> 8 if depth == 16 else value * 255 // (2**depth - 1))


def _inflated(data: memoryview) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MOST_PROFILE)
    except zlib.error:
        return b""


def _check_pixels(
    parts: list[memoryview], width: int, height: int, depth: int, colour: int, _: int, __: int, interlaced: int
) -> None:
    """Raise ``HeaderError`` if the pixels inflate to far more than the picture has: the decoder inflates all of it."""
    if sum(map(len, parts)) <= _TRUSTED:
        return
    bits = depth * _CHANNELS.get(colour, 4)
    left = _SLACK + sum(
        -(-(height - top) // down) * (1 + -(-max(0, -(-(width - first) // across)) * bits // 8))
        for first, top, across, down in (_PASSES if interlaced else ((0, 0, 1, 1),))
    )
    inflater = zlib.decompressobj(0)
    try:
        for part in parts:
            for start in range(0, len(part), 2**16):
                left -= len(inflater.decompress(part[start : start + 2**16], left + 1))
                if left < 0:
                    raise HeaderError("its compressed data hold far more than its picture; save it again")
    except zlib.error:
        return  # the decoder stops there too

"""JPEG: the size and the number of scans, found as libjpeg finds them."""

from __future__ import annotations

import re
import struct

from .container import TRUNCATED, Header, HeaderError
from .exif import check_exif

_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
"""The next marker with a length: stuffed and fill bytes, restarts and reserved codes are passed over, as libjpeg does
it among pixels; elsewhere it refuses reserved codes."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_APP1, _SCAN, _END = 0xE1, 0xDA, 0xD9
_EXIF = b"Exif\0\0"
_MOST_SEGMENTS = 10_000
"""A file of 100 MiB that is all profile has 1,600; a scan takes up to three."""
_WINDOW = 2**18
"""Bytes that are searched at once: no other thread runs meanwhile."""


def read_jpeg(data: bytes) -> Header:
    """The first frame's size; a later one is the decoder's to refuse. Some decoders fill up a missing end with grey.

    The decoder keeps all coefficients of an image with several scans, and goes over them once a scan.
    """
    size: tuple[int, int] | None = None
    components, progressive, scans = 0, False, 0
    exif: list[bytes] = []
    position = 2
    for _ in range(_MOST_SEGMENTS):
        marker, position = _next_marker(data, position)
        if marker == _END and size:
            check_exif(*exif)
            return Header(*size, data, scans)
        (length,) = struct.unpack_from(">H", data, position)
        if marker in _FRAMES and size is None:
            height, width, components = struct.unpack_from(">HHB", data, position + 3)
            size, progressive = (width, height), marker in _PROGRESSIVE
        elif marker == _SCAN:
            scans += 1
            one_pass = not progressive and data[position + 2 : position + 3] == bytes((components,))
            if size and one_pass and data.endswith(bytes((0xFF, _END))):  # as most files end; others are searched
                check_exif(*exif)
                return Header(*size, data)
        elif marker == _APP1 and data.startswith(_EXIF, position + 2):
            exif.append(data[position + 2 + len(_EXIF) : position + length])
        position += max(length, 2)
    raise HeaderError(f"it has more than {_MOST_SEGMENTS} segments; save it again")


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    """The code of the next marker and where it ends."""
    for start in range(position, len(data), _WINDOW):
        match = _MARKER.search(data, start, start + _WINDOW + 1)
        if match:
            return match[1][0], match.end()
    raise HeaderError(TRUNCATED)

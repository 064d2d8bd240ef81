"""JPEG: the size and the number of scans, found as libjpeg finds them."""

from __future__ import annotations

import re
import struct

from .container import TRUNCATED, Header, HeaderError
from .exif import PREFIX, check_exif, read_orientation

_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
"""The next marker with a length: stuffed and fill bytes, restarts and reserved codes are passed over, as libjpeg does
it among pixels; elsewhere it refuses reserved codes."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_APP1, _SCAN, _END = 0xE1, 0xDA, 0xD9
_MOST_SEGMENTS = 10_000
"""A file of 100 MiB that is all profile has 1,600; a scan takes up to three."""
_WINDOW = 2**18
"""Bytes that are searched at once: no other thread runs meanwhile."""


def read_jpeg(data: bytes, *, lenient: bool = False) -> Header:
    """The first frame's size; a later one is the decoder's to refuse. Some decoders fill up a missing end with grey.

    The decoder keeps all coefficients of an image with several scans, and goes over them once a scan.

    Args:
        data: the file.
        lenient: give a file without its end one, if some of its picture is there.
    """
    size: tuple[int, int] | None = None
    components, progressive, scans = 0, False, 0
    exif: list[bytes] = []
    orientation: int | None = None
    position = start = 2

    def found(data: bytes = data, damaged: bool = False) -> Header:
        assert size is not None  # noqa: S101
        check_exif(*exif)
        return Header(*size, data, scans, orientation=orientation or 1, damaged=damaged, reducible=True, reusable=True)

    for _ in range(_MOST_SEGMENTS):
        whole = start if position > len(data) else len(data)
        try:
            marker, end = _next_marker(data, position)
            if marker == _END and size:
                return found()
            start, whole = end - 2, end - 2
            (length,) = struct.unpack_from(">H", data, end)
        except (HeaderError, struct.error):
            if lenient and size and scans:  # what breaks off in a segment ends before it
                return found(data[:whole] + bytes((0xFF, _END)), damaged=True)
            raise
        position = end
        if marker in _FRAMES and size is None:
            height, width, components = struct.unpack_from(">HHB", data, position + 3)
            size, progressive = (width, height), marker in _PROGRESSIVE
        elif marker == _SCAN:
            scans += 1
            one_pass = not progressive and data[position + 2 : position + 3] == bytes((components,))
            if size and one_pass and data.endswith(bytes((0xFF, _END))):  # as most files end; others are searched
                return found()
        elif marker == _APP1 and data.startswith(PREFIX, position + 2):
            exif.append(data[position + 2 + len(PREFIX) : position + length])
            if len(exif) == 1 and not scans:
                orientation = read_orientation(exif[0])
        position += max(length, 2)
    raise HeaderError(f"it has more than {_MOST_SEGMENTS} segments; save it again")


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    """The code of the next marker and where it ends."""
    for start in range(position, len(data), _WINDOW):
        match = _MARKER.search(data, start, start + _WINDOW + 1)
        if match:
            return match[1][0], match.end()
    raise HeaderError(TRUNCATED)

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
END = bytes((0xFF, _END))
"""How a file ends."""
_MOST_SEGMENTS = 10_000
"""A file of 100 MiB that is all profile has 1,600; a scan takes up to three."""
_WINDOW = 2**18
"""Bytes to search at once, for no other thread runs meanwhile."""


def read_jpeg(data: bytes, *, lenient: bool = False) -> Header:
    """The first frame's size; a later one is the decoder's to refuse. Some decoders fill up a missing end with grey.

    The decoder keeps all coefficients of an image with several scans, and goes over them once a scan.

    Args:
        data: the file.
        lenient: accept a file whose end is missing, if it has at least one scan.
    """
    found = _Segments(data, lenient)
    position = start = 2
    for _ in range(_MOST_SEGMENTS):
        whole = start if position > len(data) else len(data)
        try:
            marker, end = _next_marker(data, position)
            if marker == _END and found.size:
                return found.header(data)
            start = whole = end - 2
            (length,) = struct.unpack_from(">H", data, end)
        except (HeaderError, struct.error):
            if lenient and found.size and found.scans:  # a segment that breaks off is cut off
                return found.header(data[:whole] + END, damaged=True)
            raise
        position = end
        found.take(marker, position, length)
        if found.size and found.one_pass and data.endswith(END):  # as in most files; the others are searched
            return found.header(data)
        position += max(length, 2)
    raise HeaderError(f"it has more than {_MOST_SEGMENTS} segments; save it again")


class _Segments:
    """What the segments so far say."""

    def __init__(self, data: bytes, lenient: bool) -> None:
        self._data, self._lenient = data, lenient
        self.size: tuple[int, int] | None = None
        self.scans: list[int] = []
        """Offset of each."""
        self.one_pass = False
        """The image is not progressive and its scan has all components, so there is no other scan."""
        self._components, self._progressive = 0, False
        self._exif: list[bytes] = []
        self._orientation: int | None = None

    def take(self, marker: int, position: int, length: int) -> None:
        """Read a segment; ``position`` is that of its length."""
        data = self._data
        if marker in _FRAMES and self.size is None:
            height, width, self._components = struct.unpack_from(">HHB", data, position + 3)
            self.size, self._progressive = (width, height), marker in _PROGRESSIVE
        elif marker == _SCAN:
            self.scans.append(position - 2)
            self.one_pass = not self._progressive and data[position + 2 : position + 3] == bytes((self._components,))
        elif marker == _APP1 and data.startswith(PREFIX, position + 2):
            self._exif.append(data[position + 2 + len(PREFIX) : position + length])
            if len(self._exif) == 1 and not self.scans:
                self._orientation = read_orientation(self._exif[0])

    def header(self, data: bytes, *, damaged: bool = False) -> Header:
        assert self.size is not None  # noqa: S101
        check_exif(*self._exif)
        return Header(
            *self.size,
            data,
            max(1, len(self.scans)),
            orientation=self._orientation or 1,
            damaged=damaged,
            cuts=tuple(self.scans[1:]) if self._lenient else (),
            reducible=True,
            reusable=True,
        )


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    """The code of the next marker and where it ends."""
    for start in range(position, len(data), _WINDOW):
        match = _MARKER.search(data, start, start + _WINDOW + 1)
        if match:
            return match[1][0], match.end()
    raise HeaderError(TRUNCATED)

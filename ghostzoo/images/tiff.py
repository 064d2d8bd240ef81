"""TIFF and BigTIFF: the first page's size, and a bound on what its directory makes the decoder read."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .container import Alpha, Header, HeaderError

_BIG = (b"+\0", b"\0+")
_SIZES = {256: "width", 257: "height", 322: "tile width", 323: "tile height"}
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q", 17: "q"}
"""Types that the decoder takes for a number of bytes, in TIFF as in BigTIFF; signed ones too."""
_BITS, _SAMPLES, _EXTRA_SAMPLES = 258, 277, 338
_PREMULTIPLIED = 1
"""A kind of extra sample: TIFF 6.0, section 18."""
_BYTE_COUNTS = (279, 325)
"""StripByteCounts and TileByteCounts."""
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""A field type's size: TIFF 6.0, section 2, and BigTIFF's types, which the decoder takes in both."""
_MOST_TIMES_READ = 4
"""How often fields may have the file's bytes read and kept: once in an ordinary file; some name bytes not there."""
_MOST_ENTRIES = 65_535
"""Of a directory: as many as TIFF can have, and more than the decoder takes of BigTIFF."""
_PIXEL_BYTES = 8
"""Of the deepest pixel that is read, 16 bits of RGBA."""


@dataclass(frozen=True)
class _Entry:
    """A field of the directory: its type, how many values it has, and where these are."""

    kind: int
    count: int
    start: int

    def values(self, data: bytes, order: str) -> NDArray[np.integer[Any]]:
        """Its integers, as far as the file has them."""
        if self.kind not in _INTEGERS or self.start >= len(data):
            return np.empty(0, np.uint8)
        kind = np.dtype(order + _INTEGERS[self.kind])
        return np.frombuffer(data, kind, min(self.count, (len(data) - self.start) // kind.itemsize), self.start)

    def total(self, data: bytes, order: str) -> int:
        """The sum of its integers: how many bytes are decompressed, counting those that are named twice."""
        values = self.values(data, order)
        most = min(len(data), np.iinfo(values.dtype).max)
        return int(np.clip(values, 0, most).sum(dtype=np.uint64))


def read_tiff(data: bytes) -> Header:
    """The size is filled up to whole tiles: a small image may have one huge tile."""
    order = "<" if data.startswith(b"II") else ">"
    valid = (3, 4, 16) if data[2:4] in _BIG else (3, 4)
    sizes: dict[int, int] = {}
    others: dict[int, int] = {}
    fields = pixels = 0
    counted: set[int] = set()
    for tag, entry in _directory(data, order):
        fields += min(_VALUE_BYTES.get(entry.kind, 0) * entry.count, len(data))
        if tag in _BYTE_COUNTS and tag not in counted:  # the decoder takes the first too
            counted.add(tag)
            pixels += entry.total(data, order)
        elif tag in (_BITS, _SAMPLES, _EXTRA_SAMPLES) and (values := entry.values(data, order)).size:
            others.setdefault(tag, int(values[0]))
        elif tag in _SIZES:
            if tag in sizes or entry.kind not in valid or entry.count != 1:
                raise HeaderError(f"its header gives the {_SIZES[tag]} twice or in no valid form; save it again")
            (sizes[tag],) = struct.unpack_from(order + _INTEGERS[entry.kind], data, entry.start)
    if not {256, 257} <= sizes.keys():
        raise HeaderError("its header gives no size; save it again")
    width, height = _whole(sizes[256], sizes.get(322, 0)), _whole(sizes[257], sizes.get(323, 0))
    if fields > _MOST_TIMES_READ * len(data) or pixels > len(data) + _PIXEL_BYTES * width * height:
        raise HeaderError("its header has the same data read many times; save it again")
    return Header(width, height, data, alpha=_alpha(others))


def _directory(data: bytes, order: str) -> list[tuple[int, _Entry]]:
    """The entries of the first directory. Values that fit are in the entry itself: 4 bytes, or 8 in BigTIFF."""
    big = data[2:4] in _BIG
    offset, number = ("Q", "Q") if big else ("L", "H")
    if big and struct.unpack_from(f"{order}HH", data, 4) != (8, 0):
        raise HeaderError("its header gives no size; save it again")
    (start,) = struct.unpack_from(order + offset, data, 8 if big else 4)
    if start > len(data):
        raise struct.error
    (count,) = struct.unpack_from(order + number, data, start)
    form, room = (f"{order}HHQ", 8) if big else (f"{order}HHL", 4)
    step = struct.calcsize(form) + room
    first = start + struct.calcsize(order + number)
    if count > _MOST_ENTRIES or first + step * count > len(data):
        raise struct.error
    entries = []
    for position in range(first, first + step * count, step):
        tag, kind, values = struct.unpack_from(form, data, position)
        place = position + step - room
        if _VALUE_BYTES.get(kind, 0) * values > room:
            (place,) = struct.unpack_from(order + offset, data, place)
        entries.append((tag, _Entry(kind, values, place)))
    return entries


def _alpha(fields: dict[int, int]) -> Alpha:
    """The decoder returns 8-bit colours premultiplied, and no alpha for grey."""
    if fields.get(_SAMPLES, 1) == 2:
        return Alpha.LOST
    multiplied = fields.get(_BITS, 8) <= 8 or fields.get(_EXTRA_SAMPLES) == _PREMULTIPLIED
    return Alpha.PREMULTIPLIED if multiplied else Alpha.STRAIGHT


def _whole(pixels: int, tile: int) -> int:
    return -(-pixels // tile) * tile if tile else pixels

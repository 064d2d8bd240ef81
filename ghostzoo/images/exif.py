"""EXIF data: the orientation, and a bound on their cost.

Decoders differ in which EXIF data they honour; this module applies one rule to all formats.
"""

from __future__ import annotations

import struct

from .container import HeaderError

PREFIX = b"Exif\0\0"
"""Part of JPEG's segment; some writers use it in other formats too, as Pillow did in WebP before version 9.3."""
ORIENTATION = 0x0112
_INTEGERS = {3: "H", 4: "L"}
"""Types of integers: SHORT, which the standard asks for, and LONG."""
_MOST_COPIED = 64 * 2**20
"""Bytes; ordinary data have some dozens of entries and 64 KiB, which is 100 times less."""


def read_orientation(block: bytes | memoryview) -> int | None:
    """Return the orientation that EXIF data give: 1 to 8, or ``None`` where there is none or the data are damaged."""
    if block[: len(PREFIX)] == PREFIX:
        block = block[len(PREFIX) :]
    order = {b"II": "<", b"MM": ">"}.get(bytes(block[:2]))
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}L", block, 4)
        for position in range(start + 2, start + 2 + 12 * _entries(block), 12):
            tag, kind, count = struct.unpack_from(f"{order}HHL", block, position)
            if tag == ORIENTATION and kind in _INTEGERS and count == 1:
                (value,) = struct.unpack_from(order + _INTEGERS[kind], block, position + 8)
                return value if 1 <= value <= 8 else None
    except struct.error:
        return None
    return None


def check_exif(*blocks: bytes | memoryview) -> None:
    """Raise ``HeaderError`` if the decoder could copy too much as it reads these TIFF structures, one after another."""
    if sum(_entries(block) * len(block) for block in blocks) > _MOST_COPIED:
        raise HeaderError("its EXIF data are out of proportion; save it without them")


def _entries(block: bytes | memoryview) -> int:
    """How many entries the decoder reads in the first directory; any first byte but ``I`` means big-endian to it."""
    order = "<" if block[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(f"{order}L", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
    except struct.error:
        return 0
    return int(count)

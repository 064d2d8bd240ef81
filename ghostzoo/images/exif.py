"""EXIF data that the decoder may be given: it copies each text of theirs, and many may name the same megabytes."""

from __future__ import annotations

import struct

from .container import HeaderError

_MOST_COPIED = 64 * 2**20
"""Bytes; ordinary data have some dozens of entries and 64 KiB, which is 100 times less."""


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

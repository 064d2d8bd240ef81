"""GIF: the size, and the file up to the end of its first frame, which is all that is decoded.

A code that resets the decoder's table of 4,096 entries may have only three bits, so a megabyte of them costs 9 s.
"""

from __future__ import annotations

import struct
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .container import DAMAGED, Alpha, Header, HeaderError

_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B
_MOST_BLOCKS = 1_000_000
"""Writers fill a block with 255 bytes; a file of 100 MiB has some 411,000."""
_MOST_RESETS = 200_000
"""Of the table, 3 microseconds each: a picture of 50 megapixels whose writer avoids compression has as many."""
_LONGEST_CODE = 12
"""Bits: GIF89a specification, appendix F."""
_FULL = 2**_LONGEST_CODE


def read_gif(data: bytes) -> Header:
    """All blocks are visited, for a file without its end is an error."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position, end, blocks = 13 + _table(flags), 0, 0
    while (kind := _byte(data, position)) != _END:
        if kind not in (_EXTENSION, _IMAGE):
            raise HeaderError(DAMAGED)
        position += 11 + _table(_byte(data, position + 9)) if kind == _IMAGE else 2
        start, length = position, 1
        while length:
            length = _byte(data, position)
            position += 1 + length
            blocks += 1
            if blocks > _MOST_BLOCKS:
                raise HeaderError(f"it has more than {_MOST_BLOCKS} blocks; save it again")
        if kind == _IMAGE and not end:
            end, pixels = position, start
    if not end:
        raise HeaderError(DAMAGED)
    first = data if data[end] == _END else data[:end] + bytes((_END,))
    return Header(width, height, first, check_data=partial(_check_codes, data, pixels), alpha=Alpha.STRAIGHT)


def _byte(data: bytes, position: int) -> int:
    if position >= len(data):
        raise struct.error
    return data[position]


def _table(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 * 2 ** (1 + flags % 8) if flags & 0x80 else 0


def _check_codes(data: bytes, position: int) -> None:
    """Raise ``HeaderError`` if the pixels whose blocks begin here have too many codes that reset the table.

    How long a code is depends only on how many there were since the last reset, so hundreds are looked at together.
    """
    bits = data[position - 1]
    parts = []
    while length := data[position]:
        parts.append(data[position + 1 : position + 1 + length])
        position += 1 + length
    end = 8 * sum(map(len, parts))
    if not 2 <= bits <= 8 or end <= _MOST_RESETS * (bits + 1):
        return  # refused by the decoder, or no room for too many
    stream = np.frombuffer(b"".join(parts) + bytes(4 * _FULL), np.uint8)  # as much as is looked at together
    lengths = _code_lengths(bits)
    starts = np.cumsum(lengths) - lengths
    place = resets = since = 0
    while place < end:
        window = slice(since, since + 64) if since < 64 else slice(since, None)
        offsets = starts[window] - starts[since] + place
        low, middle, high = (stream[(offsets >> 3) + byte].astype(np.int32) for byte in range(3))
        values = low | middle << 8 | high << 16
        codes = values >> (offsets & 7) & (1 << lengths[window]) - 1
        found = np.flatnonzero(codes & ~1 == 1 << bits)  # a clear code, or the end, which clears too
        if len(found):
            place, since = int(offsets[found[0]] + lengths[since + found[0]]), 0
            resets += 1
        else:
            place = int(offsets[-1] + lengths[window][-1])
            since = min(since + len(offsets), len(lengths) - _FULL)
        if resets > _MOST_RESETS:
            raise HeaderError("its compressed data are out of proportion to its picture; save it again")


def _code_lengths(bits: int) -> NDArray[np.int32]:
    """Bits of each code since the last reset, until the table is full and then for as many codes again."""
    table = np.arange(2 * _FULL) + 2**bits + 1
    lengths: NDArray[np.int32] = np.minimum(np.floor(np.log2(table)).astype(np.int32) + 1, _LONGEST_CODE)
    return lengths

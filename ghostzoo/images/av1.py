"""AV1: how many pixels the decoder allocates, whatever size the container declares.

Section numbers are those of the AV1 bitstream specification.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .bits import Bits

_SEQUENCE_HEADER = 1
_FRAMES = (3, 6)
"""OBU_FRAME_HEADER and OBU_FRAME: 6.2.2."""
_HEADER_BYTES = 256
"""A sequence header has some 10; with 32 operating points, 200."""


def decoded_pixels(data: bytes) -> int:
    """Return an upper bound of the pixels of all frames in ``data``, shown or not.

    Raises:
        struct.error: there is no frame, or no size before the first one, or the data are damaged.
    """
    size = total = 0
    for kind, content in _units(data):
        if kind == _SEQUENCE_HEADER:
            size = max(size, _frame_pixels(Bits(content[:_HEADER_BYTES])))
        elif kind in _FRAMES:
            if not size:
                raise struct.error
            total += size
    if not total:
        raise struct.error
    return total


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each OBU: 5.3."""
    position = 0
    while position < len(data):
        header = data[position]
        position += 2 if header & 4 else 1
        length = len(data) - position
        if header & 2:
            length, position = _leb128(data, position)
        if length < 0 or position + length > len(data):
            raise struct.error
        yield header >> 3 & 15, data[position : position + length]
        position += length


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    """A number in LEB128, and where it ends: 4.10.5."""
    value = 0
    for index, byte in enumerate(data[position : position + 8]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, position + index + 1
    raise struct.error


def _frame_pixels(bits: Bits) -> int:
    """Pixels of the largest frame that this sequence header (5.5.1) allows; a still picture has exactly its size."""
    bits.read(4)  # profile, and whether it is a still picture
    still = bits.read()
    if still:
        bits.read(5)
    else:
        _pass_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    width, height = bits.read(width_bits) + 1, bits.read(height_bits) + 1
    return width * height if still else 1 << width_bits + height_bits


def _pass_operating_points(bits: Bits) -> None:
    delay_bits = 0
    if bits.read():  # timing information
        bits.read(64)
        if bits.read():
            bits.exponential()
        if bits.read():  # of the decoder's model
            delay_bits = bits.read(5) + 1
            bits.read(42)
    initial_delay = bits.read()
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read()
        if delay_bits and bits.read():
            bits.read(2 * delay_bits + 1)
        if initial_delay and bits.read():
            bits.read(4)

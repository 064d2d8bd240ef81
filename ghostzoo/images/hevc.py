"""HEVC: how many pixels the decoder allocates, whatever size the container declares.

Section numbers are those of ITU-T H.265.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from .bits import Bits

_SEQUENCE = 33
_FIRST_OTHER = 32
"""Lower NAL unit types are slices of a picture: table 7-1."""
_HEADER_BYTES = 256
"""Of a sequence parameter set; its size comes within the first 100."""


def decoded_pixels(configuration: bytes, data: bytes) -> int:
    """Return an upper bound of the pixels of all pictures in ``data``.

    Args:
        configuration: the property ``hvcC``, ISO/IEC 14496-15, 8.3.3.1.
        data: the item: NAL units, each after its length.

    Raises:
        struct.error: there is no picture, or no size, or the data are damaged.
    """
    units = list(_units(data, (configuration[21] & 3) + 1 if len(configuration) > 21 else 4))
    sequences = [unit for unit in (*_configured(configuration), *units) if _kind(unit) == _SEQUENCE]
    size = max((_picture_pixels(unit) for unit in sequences), default=0)
    pictures = sum(1 for unit in units if _kind(unit) < _FIRST_OTHER and _begins_picture(unit))
    if not size or not pictures:
        raise struct.error
    return size * pictures


def _kind(unit: bytes) -> int:
    return unit[0] >> 1 & 63 if unit else 63


def _begins_picture(unit: bytes) -> bool:
    """``first_slice_segment_in_pic_flag``: 7.3.6.1."""
    return len(unit) > 2 and unit[2] >= 128


def _configured(configuration: bytes) -> Iterator[bytes]:
    if len(configuration) < 23:
        raise struct.error
    position = 23
    for _ in range(configuration[22]):
        (count,) = struct.unpack_from(">xH", configuration, position)
        position += 3
        for _ in range(count):
            (length,) = struct.unpack_from(">H", configuration, position)
            yield configuration[position + 2 : position + 2 + length]
            position += 2 + length


def _units(data: bytes, length_bytes: int) -> Iterable[bytes]:
    position = 0
    while position < len(data):
        start = position + length_bytes
        length = int.from_bytes(data[position:start])
        if start + length > len(data):
            raise struct.error
        yield data[start : start + length]
        position = start + length


def _picture_pixels(unit: bytes) -> int:
    """The size in a sequence parameter set: 7.3.2.2.1, and 7.3.3 for what is passed over."""
    bits = Bits(unit[2:_HEADER_BYTES].replace(b"\0\0\3", b"\0\0"))
    bits.read(4)
    layers = bits.read(3)
    bits.read(1 + 96)
    flags = [(bits.read(), bits.read()) for _ in range(layers)]
    if layers:
        bits.read(2 * (8 - layers))
    for profile, level in flags:
        bits.read(88 * profile + 8 * level)
    bits.exponential()
    if bits.exponential() == 3:
        bits.read()
    return bits.exponential() * bits.exponential()

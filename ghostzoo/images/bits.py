"""A bit reader for the headers of video codecs, most significant bit first."""

from __future__ import annotations

import struct


class Bits:
    """Reads numbers of any number of bits; raises ``struct.error`` beyond the end, as ``struct`` does."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data)
        self._left = 8 * len(data)

    def read(self, count: int = 1) -> int:
        self._left -= count
        if self._left < 0:
            raise struct.error
        return self._value >> self._left & ((1 << count) - 1)

    def exponential(self) -> int:
        """An exponential Golomb code, ``ue(v)`` of HEVC and ``uvlc()`` of AV1, of less than 32 bits."""
        zeros = 0
        while not self.read():
            zeros += 1
            if zeros > 31:
                raise struct.error
        return (1 << zeros) - 1 + self.read(zeros)

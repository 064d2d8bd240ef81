"""A pool of memory for decoded images: a block is reused once nothing refers to its image.

The C library returns large blocks to the system, and a new one costs a page fault for every page written: for a photo
of 12 megapixels, almost half of the decoding time.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALLEST_KEPT = 2**20
"""Smaller blocks are left to the C library."""
_LARGEST_KEPT = 64 * 2**20
"""An RGB image of 22 megapixels."""
_MOST_KEPT = 128 * 2**20
"""Bytes of all idle blocks, whatever the number of threads."""

_free: deque[NDArray[np.uint8]] = deque()
"""Idle blocks. There is no lock, because a finaliser may return a block at any point of any thread."""


class _Lease:
    """A block in use: an array and all its views keep it alive, and it returns the block when the last one is gone."""

    def __init__(self, block: NDArray[np.uint8]) -> None:
        self._block = block

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._block.__array_interface__

    def __del__(
        self, free: deque[NDArray[np.uint8]] = _free, largest: int = _LARGEST_KEPT, most: int = _MOST_KEPT
    ) -> None:
        size = self._block.nbytes  # the module may be gone by now
        if size <= largest and size + sum(block.nbytes for block in tuple(free)) <= most:
            free.append(self._block)


def new_image(*shape: int) -> NDArray[np.uint8]:
    """Return an uninitialised array of this shape, in reused memory if there is some."""
    size = math.prod(shape)
    if size < _SMALLEST_KEPT:
        return np.empty(shape, np.uint8)
    return np.asarray(_Lease(_take(size)))[:size].reshape(shape)


def _take(size: int) -> NDArray[np.uint8]:
    """A block of at least ``size`` bytes. Blocks that are too small are freed; those that are far too large stay."""
    for _ in range(len(_free)):
        try:
            block = _free.popleft()
        except IndexError:  # another thread was faster
            break
        if size <= block.nbytes <= 2 * size:
            return block
        if block.nbytes > size:
            _free.append(block)
    return np.empty(size, np.uint8)

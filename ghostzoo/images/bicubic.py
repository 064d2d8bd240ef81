"""Pillow's antialiased bicubic resize, bit for bit, of the part of the result that is wanted, without Pillow.

Pillow weighs the pixels along each axis by integers of 22 fractional bits, across first, and rounds to 8 bits after
each axis. The sums of such products fit into float64 exactly, in any order, so that matrix products compute them here.

Since version 13 Pillow begins with the height where that is more than about twice the width. The published accuracies
are older, so here all images are resized across first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

_FRACTION = 2**22
"""Pillow's weights are multiples of its inverse, so that sums fit into 32 bits."""
_RADIUS = 2.0
"""Pixels that the filter reaches to each side, of the source or of the result, whichever are larger."""
_COLUMNS = 16
"""Columns of the result that one product computes; more would multiply by more zeros."""
_PRODUCT = 2**18
"""Multiplications of one product. BLAS libraries start no threads of their own for so few."""
_BUFFER = 2**17
"""Numbers that are converted at once, so that they stay in the CPU's cache."""


@dataclass(frozen=True)
class _Axis:
    """What the pixels ``start`` to ``stop`` of the source contribute to some pixels of the result along one axis."""

    start: int
    stop: int
    blocks: tuple[tuple[slice, slice, NDArray[np.float64]], ...]
    """Pixels of the result, those of the source from ``start`` on, and the weights, (source, result)."""


def resize_window(
    rgb: NDArray[np.uint8], size: tuple[int, int], place: tuple[int, int], window: int
) -> NDArray[np.uint8]:
    """Resize to ``size``, and return the square of ``window`` pixels a side at ``place``.

    Args:
        rgb: (H, W, 3) uint8.
        size: height and width of the whole result.
        place: top and left of the window in it.
        window: side in pixels.

    Returns:
        (window, window, 3) uint8.
    """
    down, across = (_axis(rgb.shape[axis], size[axis], place[axis], window) for axis in (0, 1))
    part = rgb[down.start : down.stop, across.start : across.stop]
    narrow = np.empty((3, len(part), window), np.uint8)
    widest = max(weights.size for _, _, weights in across.blocks)
    rows = max(1, min(_PRODUCT // widest, _BUFFER // part.shape[1]))
    source = np.empty((rows, part.shape[1]), np.float64)
    sums = np.empty((rows, window), np.float64)
    for first in range(0, len(part), rows):
        for channel, pixels in enumerate(cv2.split(part[first : first + rows])):
            count = len(pixels)
            source[:count] = pixels
            for result, taken, weights in across.blocks:
                np.matmul(source[:count, taken], weights, out=sums[:count, result])
            _round(sums[:count], narrow[channel, first : first + count])
    out = np.empty((window, window, 3), np.uint8)
    flat = np.empty((window, window), np.float64)
    for channel in range(3):
        plane = narrow[channel].astype(np.float64)
        for result, taken, weights in down.blocks:
            np.matmul(weights.T, plane[taken], out=flat[result])
        _round(flat, out[:, :, channel])
    return out


def _round(sums: NDArray[np.float64], out: NDArray[np.uint8]) -> None:
    """Round halves up and clip to 8 bits; ``sums`` are used up."""
    sums += 0.5
    np.clip(sums, 0, 255, out=sums)
    out[...] = sums  # cuts the fraction off


@lru_cache(maxsize=16)
def _axis(source: int, resized: int, start: int, count: int) -> _Axis:
    scale = source / resized
    widening = max(scale, 1.0)
    support = _RADIUS * widening
    centres = (np.arange(start, start + count) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), source)
    taps = np.arange(int((last - first).max()))
    values = _cubic((taps + first[:, None] - centres[:, None] + 0.5) * (1.0 / widening))
    values[taps >= (last - first)[:, None]] = 0.0
    total = np.cumsum(values, axis=1)[:, -1:]  # one after the other, as Pillow adds them
    weights = np.trunc(values / total * _FRACTION + np.where(values < 0, -0.5, 0.5)) / _FRACTION
    blocks = []
    for begin in range(0, count, _COLUMNS):
        block = slice(begin, min(begin + _COLUMNS, count))
        low, high = int(first[begin]), int(last[block][-1])
        matrix = np.zeros((high - low + taps.size, block.stop - begin))  # longer, for the taps that a pixel has not
        matrix[first[block, None] - low + taps, np.arange(block.stop - begin)[:, None]] = weights[block]
        blocks.append((block, slice(low - int(first[0]), high - int(first[0])), matrix[: high - low]))
    return _Axis(int(first[0]), int(last[-1]), tuple(blocks))


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys's kernel with a = -1/2, operation by operation as in Pillow."""
    a = -0.5
    x = np.abs(distance)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))

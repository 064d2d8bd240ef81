"""RGB uint8 -> normalised CHW float32, bit for bit as PaddleClas or timm does it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .bicubic import resize_window
from .preprocessing import BICUBIC, Preprocessing


def preprocess(
    rgb: NDArray[np.uint8], config: Preprocessing, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Resize the short side, cut the centre, normalise.

    Args:
        rgb: (H, W, 3) uint8; it is not changed.
        config: sizes and normalisation.
        out: (3, crop_size, crop_size) float32, C-contiguous, to write to; a new array by default.

    Returns:
        (3, crop_size, crop_size) float32.
    """
    return normalise(cut_centre(rgb, config), config, out)


def cut_centre(rgb: NDArray[np.uint8], config: Preprocessing) -> NDArray[np.uint8]:
    """The first half of ``preprocess``, a quarter of the second one's bytes: resize the short side, cut the centre.

    Returns:
        (crop_size, crop_size, 3) uint8, as a rule not contiguous.
    """
    if config.interpolation == BICUBIC:
        return _cut_bicubic(rgb, config)
    height, width = rgb.shape[:2]
    scale = config.resize_short / min(height, width)
    size = (round(width * scale), round(height * scale))
    resized: NDArray[Any] = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)
    crop = config.crop_size
    top, left = (size[1] - crop) // 2, (size[0] - crop) // 2
    return resized[top : top + crop, left : left + crop]


def _cut_bicubic(rgb: NDArray[np.uint8], config: Preprocessing) -> NDArray[np.uint8]:
    """As torchvision: the long side is truncated, and the place of the crop rounded half to even."""
    shorter, crop = min(rgb.shape[:2]), config.crop_size
    height, width = (int(config.resize_short * side / shorter) for side in rgb.shape[:2])
    return resize_window(rgb, (height, width), (round((height - crop) / 2), round((width - crop) / 2)), crop)


def normalise(
    windows: NDArray[np.uint8], config: Preprocessing, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The second half of ``preprocess``: what ``cut_centre`` returned, (..., H, W, 3) -> the network's input, (..., 3,
    H, W)."""
    *many, height, width, _ = windows.shape
    if out is None:
        out = np.empty((*many, 3, height, width), np.float32)
    planes = out.reshape(-1, 3, height * width)
    channels = cv2.split(windows.reshape(-1, width, 3))
    for index, (values, channel) in enumerate(zip(_normalised_values(config), channels, strict=True)):
        cv2.LUT(channel.reshape(len(planes), -1), values, dst=planes[:, index])
    return out


@lru_cache(maxsize=16)
def _normalised_values(config: Preprocessing) -> NDArray[np.float32]:
    """Every value that a normalised pixel can have, (3, 256): one look-up gives the original's own rounding."""
    kind = np.float64 if config.interpolation == BICUBIC else np.float32
    levels = (np.arange(256, dtype=kind) * np.array(config.rescale_factor, kind)).astype(np.float32)
    mean, std = (np.array(values, np.float32)[:, None] for values in (config.mean, config.std))
    table: NDArray[np.float32] = (levels - mean) / std
    table.flags.writeable = False
    return table

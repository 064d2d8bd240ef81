"""Augmentation: of single images in NumPy and OpenCV, and of batches (mixup and cutmix) in PyTorch.

All random numbers come from the generator that the caller passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from exporters.training.recipe import Recipe
from ghostzoo.evaluation.datasets import UNLABELLED

Image = NDArray[np.uint8]
"""(H, W, 3), RGB."""

_CROP_ATTEMPTS = 10
_ASPECT = (3 / 4, 4 / 3)
_INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)
_FILL = (124, 116, 104)  # ImageNet's mean colour


def random_resized_crop(
    rng: np.random.Generator, image: Image, size: int, smallest: float, *, any_interpolation: bool = False
) -> Image:
    """Crop a random rectangle of at least ``smallest`` of the area and an aspect ratio from 3:4 to 4:3; resize it.

    Args:
        rng: source of randomness.
        image: the image.
        size: side of the square result in pixels.
        smallest: share of the area.
        any_interpolation: use any of OpenCV's methods, from nearest to Lanczos, so that the network does not depend on
            how sharp an image is. Otherwise bilinear, as at inference.
    """
    height, width = image.shape[:2]
    for _ in range(_CROP_ATTEMPTS):
        area = height * width * rng.uniform(smallest, 1.0)
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            break
    else:
        h = w = min(height, width)
        top, left = (height - h) // 2, (width - w) // 2
    interpolation = int(rng.choice(_INTERPOLATIONS)) if any_interpolation else cv2.INTER_LINEAR
    resized = cv2.resize(image[top : top + h, left : left + w], (size, size), interpolation=interpolation)
    return np.asarray(resized, np.uint8)


def sharpen(rng: np.random.Generator, image: Image, strength: float) -> Image:
    """Sharpen the image by up to ``strength`` times its detail, or blur it, on scales of 0.5 to 2 pixels."""
    blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.0))
    return _blend(image, blurred.astype(np.float32), 1 + rng.uniform(-1, strength))


def flip(rng: np.random.Generator, image: Image) -> Image:
    """Flip horizontally with probability 0.5."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def rand_augment(rng: np.random.Generator, image: Image, operations: int, magnitude: float) -> Image:
    """Apply RandAugment: ``operations`` random operations, each with a strength of up to ``magnitude`` out of 10."""
    for _ in range(operations):
        strength = float(rng.uniform(0, magnitude)) / 10
        sign = 1.0 if rng.random() < 0.5 else -1.0
        image = OPERATIONS[int(rng.integers(len(OPERATIONS)))](image, strength, sign)
    return image


def _affine(image: Image, matrix: list[list[float]]) -> Image:
    height, width = image.shape[:2]
    warped = cv2.warpAffine(
        image,
        np.array(matrix, np.float64),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_FILL,
    )
    return np.asarray(warped, np.uint8)


def _rotate(image: Image, strength: float, sign: float) -> Image:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), sign * strength * 30, 1.0)
    return _affine(image, matrix.tolist())


def _shear_x(image: Image, strength: float, sign: float) -> Image:
    shear = sign * strength * 0.3
    return _affine(image, [[1, shear, -shear * image.shape[0] / 2], [0, 1, 0]])


def _shear_y(image: Image, strength: float, sign: float) -> Image:
    shear = sign * strength * 0.3
    return _affine(image, [[1, 0, 0], [shear, 1, -shear * image.shape[1] / 2]])


def _translate_x(image: Image, strength: float, sign: float) -> Image:
    return _affine(image, [[1, 0, sign * strength * 0.45 * image.shape[1]], [0, 1, 0]])


def _translate_y(image: Image, strength: float, sign: float) -> Image:
    return _affine(image, [[1, 0, 0], [0, 1, sign * strength * 0.45 * image.shape[0]]])


def _blend(image: Image, other: NDArray[np.float32], factor: float) -> Image:
    """Interpolate from ``other`` (factor 0) to the image (1), and beyond."""
    blended = other + (image - other) * np.float32(factor)
    return _rounded(blended)


def _rounded(values: NDArray[np.floating[Any]]) -> Image:
    image: Image = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return image


def _grey(image: Image) -> NDArray[np.float32]:
    return (image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]


def _colour(image: Image, strength: float, sign: float) -> Image:
    return _blend(image, _grey(image), 1 + sign * strength * 0.9)


def _contrast(image: Image, strength: float, sign: float) -> Image:
    return _blend(image, np.full((1, 1, 1), _grey(image).mean(), np.float32), 1 + sign * strength * 0.9)


def _brightness(image: Image, strength: float, sign: float) -> Image:
    return _blend(image, np.zeros((1, 1, 1), np.float32), 1 + sign * strength * 0.9)


def _sharpness(image: Image, strength: float, sign: float) -> Image:
    return _blend(image, cv2.blur(image, (3, 3)).astype(np.float32), 1 + sign * strength * 0.9)


def _autocontrast(image: Image, strength: float, sign: float) -> Image:
    low, high = image.min(axis=(0, 1)).astype(np.float32), image.max(axis=(0, 1)).astype(np.float32)
    flat = low == high  # a channel of one value has no contrast to stretch
    low, spread = np.where(flat, 0, low), np.where(flat, 255, high - low)
    return _rounded((image - low) * (255 / spread))


def _equalise(image: Image, strength: float, sign: float) -> Image:
    return np.dstack([cv2.equalizeHist(np.ascontiguousarray(image[..., channel])) for channel in range(3)])


def _posterise(image: Image, strength: float, sign: float) -> Image:
    kept: Image = image & np.uint8(0xFF << round(4 * strength) & 0xFF)
    return kept


def _solarise(image: Image, strength: float, sign: float) -> Image:
    return np.where(image >= 256 * (1 - strength), 255 - image, image).astype(np.uint8)


OPERATIONS: tuple[Callable[[Image, float, float], Image], ...] = (
    _autocontrast,
    _equalise,
    _rotate,
    _posterise,
    _solarise,
    _colour,
    _contrast,
    _brightness,
    _sharpness,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)
"""RandAugment's operations. Each takes an image, a strength from 0 to 1, and a sign of -1 or 1."""


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Turn labels (N,) into targets (N, classes); the row of an ``UNLABELLED`` image is all zeros."""
    labelled = (labels != UNLABELLED).float()[:, None]
    return F.one_hot(labels.clamp(min=0), num_classes).float() * labelled


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """Spread ``smoothing`` of each target (N, classes) over all classes.

    PyTorch's own label smoothing would also give a target to unlabelled images, whose rows sum to less than 1.
    """
    return targets * (1 - smoothing) + targets.sum(dim=1, keepdim=True) * (smoothing / targets.shape[1])


def mixup_or_cutmix(rng: np.random.Generator, x: Tensor, targets: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Mix a batch (N, 3, H, W) and its targets (N, classes) with the same batch in reverse order.

    If the recipe has both mixup and cutmix, one of them is chosen at random.
    """
    choices = [name for name in ("mixup", "cutmix") if getattr(recipe, name)]
    if not choices:
        return x, targets
    chosen = choices[int(rng.integers(len(choices)))]
    alpha = getattr(recipe, chosen)
    share = float(rng.beta(alpha, alpha))
    if chosen == "mixup":
        x = x.lerp(x.flip(0), 1 - share)
    else:
        x, share = _paste_rectangle(rng, x, share)
    return x, targets.lerp(targets.flip(0), 1 - share)


def _paste_rectangle(rng: np.random.Generator, x: Tensor, share: float) -> tuple[Tensor, float]:
    """Paste a random rectangle of ``1 - share`` of the area, clipped at the border; return the share that is left."""
    height, width = x.shape[2:]
    half = math.sqrt(1 - share) / 2
    row, column = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(0, round(row - half * height)), min(height, round(row + half * height))
    left, right = max(0, round(column - half * width)), min(width, round(column + half * width))
    mixed = x.clone(memory_format=torch.preserve_format)
    mixed[:, :, top:bottom, left:right] = x.flip(0)[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)

"""Augmentation in NumPy and OpenCV. Every draw comes from the generator that the caller passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(H, W, 3), RGB."""

_CROP_ATTEMPTS = 10
_ASPECT = (3 / 4, 4 / 3)
_INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)
_FILL = (124, 116, 104)  # ImageNet's mean colour


def random_resized_crop(
    rng: np.random.Generator, image: Image, size: int, smallest: float, *, any_interpolation: bool = False
) -> Image:
    """Cut a random rectangle, from ``smallest`` to all of the area and 3:4 to 4:3, and resize it to a square.

    Bilinear, as the finished network's own images are; or by any of OpenCV's methods, from the blocks of the nearest
    pixel to the ringing of Lanczos, so that the network does not depend on how sharp an image is.
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


def flip(rng: np.random.Generator, image: Image) -> Image:
    """Mirror left and right, every second time."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def rand_augment(rng: np.random.Generator, image: Image, operations: int, magnitude: float) -> Image:
    """Apply ``operations`` random operations, each with a strength up to ``magnitude`` of 10 (RandAugment)."""
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
    """``factor`` 1 keeps the image, 0 gives ``other``, more than 1 goes away from it."""
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
"""What RandAugment draws from: each takes an image, a strength from 0 to 1, and a sign of -1 or 1."""

"""The picture that is classified where the user gives none."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2

from ..bundle.golden import synthetic_images
from ..images.decode import read_image

WIDTH, HEIGHT = 500, 375
"""The most frequent size among ImageNet's photographs."""
_QUALITY = 90


@cache
def jpeg() -> bytes:
    """Return a JPEG file of waves and grain, the same on every machine."""
    pixels = synthetic_images(1, WIDTH)[0][:HEIGHT]
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])


def open_picture(path: Path) -> bytes:
    """Return the content of an image file that can be decoded.

    Raises:
        ImageError: it cannot be read.
    """
    read_image(path)
    return path.read_bytes()

"""How an image becomes the network's input, as data: ``transform`` does it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import OptionError

MAX_IMAGE_SIZE = 4096
"""Largest side in pixels that a model may ask for; a guard, not a property of the network."""

BILINEAR, BICUBIC = "bilinear", "bicubic"


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB image becomes the network's input; the defaults are those of PaddleClas's deployment.

    ``pixel_values = (uint8 * rescale_factor - mean) / std``, all in float32, channel by channel. Each source of weights
    has a resize of its own, and they score lower with another's; ``interpolation`` says whose it is.
    """

    resize_short: int = 256
    """Pixels that the shorter side is resized to."""
    crop_size: int = 224
    """Side in pixels of the square that is cut from the centre."""
    rescale_factor: float = 0.00392157
    """The original's deployment uses this rounded 1/255; training and evaluation there use 1/255."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Red, green, blue; ImageNet's, as in the original."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = BILINEAR
    """``bilinear``: as PaddleClas, by OpenCV and without antialiasing. ``bicubic``: as timm, by Pillow's antialiased
    filter; the long side is then truncated, not rounded, the crop's place is rounded half to even, and
    ``uint8 * rescale_factor`` is rounded once, so that 1/255 is a division."""

    @classmethod
    def timm(cls, crop_size: int = 224, crop_pct: float = 0.875) -> Preprocessing:
        """Return timm's evaluation transform for inputs of ``crop_size`` pixels, with ImageNet's mean and deviation.

        Args:
            crop_size: side of the input.
            crop_pct: its part of the resized shorter side; timm calls it so, too.
        """
        return cls(math.floor(crop_size / crop_pct), crop_size, 1 / 255, interpolation=BICUBIC)

    def __post_init__(self) -> None:
        for name in ("resize_short", "crop_size"):
            if not isinstance(getattr(self, name), int):
                raise OptionError(f"{name} must be a whole number of pixels, not {getattr(self, name)!r}.")
        if not 1 <= self.crop_size <= self.resize_short <= MAX_IMAGE_SIZE:
            raise OptionError(
                f"The crop ({self.crop_size} pixels) must not be larger than the resized short side "
                f"({self.resize_short}), which is at most {MAX_IMAGE_SIZE}."
            )
        if self.interpolation not in (BILINEAR, BICUBIC):
            raise OptionError(f"interpolation must be {BILINEAR} or {BICUBIC}, not {self.interpolation!r}.")
        for name, values in (("rescale_factor", (self.rescale_factor,)), ("std", self.std)):
            if not all(math.isfinite(value) and value > 0 for value in values):
                raise OptionError(f"{name} must be a positive number for every channel, not {getattr(self, name)!r}.")
        if not all(map(math.isfinite, self.mean)):
            raise OptionError(f"mean must be a number for every channel, not {self.mean!r}.")

"""How an image becomes the network's input, as data: ``transform`` does it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import OptionError

MAX_IMAGE_SIZE = 4096
"""Largest side in pixels that a model may ask for; a guard, not a property of the network."""


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB image becomes the network's input; the defaults are those of the original's deployment.

    ``pixel_values = (uint8 * rescale_factor - mean) / std``, all in float32, channel by channel.
    """

    resize_short: int = 256
    """Pixels that the shorter side is resized to, bilinearly and without antialiasing."""
    crop_size: int = 224
    """Side in pixels of the square that is cut from the centre."""
    rescale_factor: float = 0.00392157
    """The original's deployment uses this rounded 1/255; training and evaluation there use 1/255."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Red, green, blue; ImageNet's, as in the original."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("resize_short", "crop_size"):
            if not isinstance(getattr(self, name), int):
                raise OptionError(f"{name} must be a whole number of pixels, not {getattr(self, name)!r}.")
        if not 1 <= self.crop_size <= self.resize_short <= MAX_IMAGE_SIZE:
            raise OptionError(
                f"The crop ({self.crop_size} pixels) must not be larger than the resized short side "
                f"({self.resize_short}), which is at most {MAX_IMAGE_SIZE}."
            )
        for name, values in (("rescale_factor", (self.rescale_factor,)), ("std", self.std)):
            if not all(math.isfinite(value) and value > 0 for value in values):
                raise OptionError(f"{name} must be a positive number for every channel, not {getattr(self, name)!r}.")
        if not all(map(math.isfinite, self.mean)):
            raise OptionError(f"mean must be a number for every channel, not {self.mean!r}.")

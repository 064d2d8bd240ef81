"""What labelled images say of a model's confidence; kept in the bundle's manifest, used whenever classes are ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import OptionError

LEVELS = (*(round(percent / 100, 2) for percent in range(50, 100)), 0.995, 0.999)
"""Coverages for which a lowest score is kept, where there are enough images."""
MAX_TEMPERATURE = 100.0
MAX_ENERGY = 1e6
MAX_VALUES = 1001


@dataclass(frozen=True)
class Calibration:
    """A temperature, the scores that sets of classes need, and how large logits of familiar images are."""

    temperature: float
    """Logits are divided by it before the softmax."""
    images: int
    """Images that the rest was measured on; the temperature was fitted on others."""
    coverage: Mapping[float, float]
    """Share of images whose class is to be in the set -> lowest score, of the softmax with the temperature, of a class
    in the set."""
    energies: tuple[float, ...]
    """Quantiles, evenly spaced and ascending, of log(sum(exp(logits))) of these images."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "images": self.images,
            "coverage": {f"{level:g}": score for level, score in sorted(self.coverage.items())},
            "energies": list(self.energies),
        }

    @classmethod
    def from_dict(cls, content: object) -> Calibration:
        """Read what ``to_dict`` returned.

        Raises:
            ValueError: it is something else; the message says what is wrong.
        """
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        coverage, energies, images = (content.get(name) for name in ("coverage", "energies", "images"))
        if not isinstance(coverage, dict) or len(coverage) > MAX_VALUES:
            raise ValueError("its coverage is no object")
        if not isinstance(energies, list) or not 2 <= len(energies) <= MAX_VALUES:
            raise ValueError("its energies are no list of numbers")
        if not isinstance(images, int) or isinstance(images, bool) or images < 1:
            raise ValueError("its number of images is not positive")
        return cls(
            _number(content.get("temperature"), 1 / MAX_TEMPERATURE, MAX_TEMPERATURE),
            images,
            {_level(level): _number(score, 0, 1) for level, score in coverage.items()},
            tuple(sorted(_number(energy, -MAX_ENERGY, MAX_ENERGY) for energy in energies)),
        )

    def min_score(self, coverage: float) -> float:
        """Return the lowest score of a class in a set that is to hold an image's class with this probability.

        Raises:
            OptionError: the model was calibrated on too few images for it.
        """
        levels = [level for level in self.coverage if level >= coverage]
        if not levels:
            raise OptionError(
                f"coverage={coverage:g} needs more images than the {self.images} that the model was calibrated on; ask "
                f"for {max(self.coverage, default=0):g} at most, or calibrate it with more."
            )
        return self.coverage[min(levels)]

    def known(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return, for logits (N, classes), the share of the calibration's images with smaller ones: (N,), 0 to 1."""
        return np.interp(energy(logits), self._quantiles, np.linspace(0, 1, len(self.energies)))

    @cached_property
    def _quantiles(self) -> NDArray[np.float64]:
        return np.array(self.energies)


def energy(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log(sum(exp(logits))) of logits (N, classes): (N,) float64, small for images unlike those trained on."""
    exact = logits.astype(np.float64)
    largest = exact.max(axis=1)
    total: NDArray[np.float64] = largest + np.log(np.exp(exact - largest[:, None]).sum(axis=1))
    return total


def check_share(name: str, value: object) -> None:
    """Check a number between 0 and 1 that a caller gave, if any.

    Raises:
        OptionError: it is something else.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 < value < 1):  # type: ignore[operator]
        raise OptionError(f"{name} must be a number between 0 and 1, not {value!r}.")


def _level(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (text.isascii() and text.startswith("0.") and text[2:].isdigit() and len(text) <= 8 and value > 0):
        raise ValueError("its coverage has a level that is not between 0 and 1")
    return value


def _number(value: object, low: float, high: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{str(value)[:40]!a} is no number from {low:g} to {high:g}")
    return float(value)

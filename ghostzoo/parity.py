"""When do two implementations agree? The one measure that conversion, export and the engines' self-check use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT_TOLERANCE = 1e-5
"""Largest difference, as a fraction of the logits' scale, between a graph and the network that it was made from."""

ENGINE_TOLERANCE = 1e-4
"""Largest difference, as a fraction of the logits' scale, between an engine in float32 and the golden logits."""


_REDUCED_TOLERANCES = {"fp16": 3e-2, "bf16": 0.1, "int8": 0.5}


def engine_tolerance(precision: str) -> float:
    """Largest accepted difference from the golden logits, as a fraction of their scale, of an engine in ``precision``.

    Half precision was measured to differ by 0.0035 to 0.013, bfloat16 by 0.008 to 0.045; int8 has no bound of its own,
    and this one finds wrong networks.
    """
    return _REDUCED_TOLERANCES.get(precision, ENGINE_TOLERANCE)


@dataclass(frozen=True)
class Agreement:
    """How far logits are from reference logits."""

    max_difference: float
    """Largest absolute difference."""
    scale: float
    """Largest absolute reference logit."""
    top5_equal: bool
    """The five best classes are the same for every image, ties aside."""

    @property
    def relative(self) -> float:
        """The difference as a fraction of the scale; infinite where a logit is not finite."""
        if not np.isfinite(self.max_difference):
            return float("inf")
        return self.max_difference / self.scale if self.scale > 0 else float(self.max_difference > 0)

    def within(self, tolerance: float) -> bool:
        return self.relative <= tolerance and self.top5_equal

    def to_dict(self) -> dict[str, Any]:
        return {"max_difference": self.max_difference, "scale": self.scale, "top5_equal": self.top5_equal}

    def __str__(self) -> str:
        top5 = "equal" if self.top5_equal else "different"
        return f"{self.relative:.1e} of the logits' scale ({self.scale:.4g}), top-5 {top5}"


def compare_logits(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], tolerance: float = EXACT_TOLERANCE
) -> Agreement:
    """Compare two (N, classes) arrays of logits.

    Classes whose reference logits lie within twice ``tolerance`` (times the scale) of the fifth best one are tied with
    it: any of them may stand among the five.
    """
    expected, actual = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    if expected.shape != actual.shape or expected.ndim != 2:
        raise ValueError(f"logits of shape {actual.shape} cannot be compared with {expected.shape}")
    if not expected.size:
        return Agreement(0.0, 0.0, True)
    difference = float(np.abs(expected - actual).max())
    scale = float(np.abs(expected).max())
    margin = 2 * tolerance * scale
    equal = bool(np.isfinite(actual).all()) and all(
        _same_top(row, other, margin) for row, other in zip(expected, actual, strict=True)
    )
    return Agreement(difference if np.isfinite(difference) else float("inf"), scale, equal)


def _same_top(expected: NDArray[np.float64], actual: NDArray[np.float64], margin: float, count: int = 5) -> bool:
    count = min(count, expected.size)
    fifth = np.partition(expected, -count)[-count]
    top = set(np.argpartition(actual, -count)[-count:].tolist())
    certain = set(np.flatnonzero(expected > fifth + margin).tolist())
    possible = set(np.flatnonzero(expected >= fifth - margin).tolist())
    return certain <= top <= possible

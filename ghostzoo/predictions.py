"""Logits -> probabilities and the best classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .labels import ClassLabel

SCORE_DECIMALS = 5
"""Decimals of a score in printed and serialised results; the original rounds to as many."""


@dataclass(frozen=True)
class Prediction:
    """One class that the model sees in an image."""

    index: int
    label: str
    score: float
    """Softmax probability, 0 to 1, not rounded."""
    wnid: str | None = None
    """WordNet id of the class, where it has one."""
    damaged: bool = False
    """The image is a damaged JPEG that was read leniently: part of it was missing."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types, the score rounded as the original rounds it; ``damaged`` only if it is."""
        return {
            "index": self.index,
            "label": self.label,
            "score": round(self.score, SCORE_DECIMALS),
            "wnid": self.wnid,
            **({"damaged": True} if self.damaged else {}),
        }


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn logits (N, classes) float32 into probabilities of the same shape and type."""
    probabilities: NDArray[np.float32] = logits - logits.max(axis=-1, keepdims=True)
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    return probabilities


def top_predictions(
    probabilities: NDArray[np.float32], labels: Sequence[ClassLabel], top_k: int, *, damaged: bool = False
) -> list[Prediction]:
    """Return the ``top_k`` best classes (all, if there are fewer) of one row of probabilities, best first."""
    count = min(top_k, probabilities.size)
    best = probabilities.argpartition(-count)[-count:]
    order = sorted(zip((-probabilities[best]).tolist(), best.tolist(), strict=True))  # equal ones: lower index first
    return [Prediction(index, labels[index].label, -negative, labels[index].wnid, damaged) for negative, index in order]

"""Logits -> probabilities and the classes that an image shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import OptionError
from .labels import ClassLabel

SCORE_DECIMALS = 5
"""Decimals of a score in printed and serialised results; the original rounds to as many."""
TOP_K = 5
"""Classes for each image, by default; of a multi-label model, all that reach the threshold."""
THRESHOLD = 0.5
"""The score from which on a multi-label model says that an image shows a class, by default; the original's, too."""


@dataclass(frozen=True)
class Prediction:
    """One class that the model sees in an image."""

    index: int
    label: str
    score: float
    """Probability of the class, 0 to 1, not rounded: softmax, or sigmoid of a multi-label model."""
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


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn logits (N, classes) float32 into the probability of each class by itself, of the same shape and type."""
    smaller = np.exp(-np.abs(logits))  # which never overflows
    probabilities = np.ones_like(logits)
    np.copyto(probabilities, smaller, where=logits < 0)
    probabilities /= 1 + smaller
    return probabilities


def top_predictions(
    probabilities: NDArray[np.float32],
    labels: Sequence[ClassLabel],
    top_k: int,
    min_score: float = -math.inf,
    *,
    damaged: bool = False,
) -> list[Prediction]:
    """Return the best classes of one row of probabilities, best first: ``top_k`` at most, none below ``min_score``.

    Of equal ones the lower index comes first, whatever ``top_k`` is.
    """
    count = min(top_k, probabilities.size)
    partitioned = probabilities.copy()
    partitioned.partition(-count)
    lowest = partitioned[-count]
    if min_score > lowest:
        lowest = np.float32(min_score)
    candidates = (~(probabilities < lowest)).nonzero()[0]  # all that are equal to the last one, too
    ranked = sorted(zip((-probabilities[candidates]).tolist(), candidates.tolist(), strict=True))[:count]
    return [
        Prediction(index, labels[index].label, -negative, labels[index].wnid, damaged) for negative, index in ranked
    ]


def check_min_score(min_score: object) -> None:
    """Check what a caller gave as the lowest score, if any.

    Raises:
        OptionError: it is no number from 0 to 1.
    """
    is_number = isinstance(min_score, Real) and not isinstance(min_score, bool)
    if min_score is not None and not (is_number and 0 <= min_score <= 1):  # type: ignore[operator]
        raise OptionError(f"min_score must be a number from 0 to 1, not {min_score!r}.")


@dataclass(frozen=True)
class Postprocessing:
    """How a model's logits become classes."""

    labels: Sequence[ClassLabel]
    multi_label: bool = False
    """Whether an image shows any number of the classes, each with a probability of its own, and not just one."""

    @property
    def top_k(self) -> int:
        """Classes for each image at most, by default."""
        return len(self.labels) if self.multi_label else TOP_K

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities of logits (N, classes) float32, of the same shape and type."""
        return sigmoid(logits) if self.multi_label else softmax(logits)

    def predictions(
        self,
        logits: NDArray[np.float32],
        top_k: int | None = None,
        min_score: float | None = None,
        damaged: Sequence[bool] | None = None,
    ) -> list[list[Prediction]]:
        """Return the classes of each row of logits (N, classes) float32, best first.

        Args:
            top_k: classes for each row at most; by default 5, and of a multi-label model as many as reach
                ``min_score``.
            min_score: the lowest score that counts; by default 0, and of a multi-label model 0.5.
            damaged: whether the image of each row is damaged; by default none is.
        """
        if top_k is None:
            top_k = self.top_k
        if min_score is None:
            min_score = THRESHOLD if self.multi_label else 0.0
        return [
            top_predictions(row, self.labels, top_k, min_score, damaged=each)
            for row, each in zip(self.probabilities(logits), damaged or [False] * len(logits), strict=True)
        ]

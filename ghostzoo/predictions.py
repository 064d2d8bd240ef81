"""Logits -> probabilities and the classes that an image shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .calibration import Calibration, check_share
from .errors import OptionError
from .labels import ClassLabel

if TYPE_CHECKING:
    from .groups import Grouping

SCORE_DECIMALS = 5
"""Decimals of a score in printed and serialised results; the original rounds to as many."""
TOP_K = 5
"""Classes for each image, by default; of a multi-label model, all that reach the threshold."""
_FEW = 64
"""Scores that Python sorts itself: NumPy lets other threads run for any, and a server would wait for them."""
_KEPT_GROUPINGS = 64
THRESHOLD = 0.5
"""The score from which on a multi-label model says that an image shows a class, by default; the original's, too."""


@dataclass(frozen=True)
class Prediction:
    """One class, or a group of classes, that the model sees in an image."""

    index: int
    """Of the class; of a group, that of its ``best`` one."""
    label: str
    score: float
    """Probability of the class, 0 to 1, not rounded: softmax, or sigmoid of a multi-label model; of a group, the sum of
    its classes'."""
    wnid: str | None = None
    """WordNet id of the class, where it has one, or of the group."""
    damaged: bool = False
    """The image is a damaged JPEG that was read leniently: part of it was missing."""
    best: Prediction | None = field(default=None, repr=False)
    """Of a group, its class with the largest score."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types, the score rounded as the original rounds it; ``damaged`` only if it is,
        ``best`` only of a group."""
        return {
            "index": self.index,
            "label": self.label,
            "score": round(self.score, SCORE_DECIMALS),
            "wnid": self.wnid,
            **({"damaged": True} if self.damaged else {}),
            **({"best": self.best.to_dict()} if self.best is not None else {}),
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
    return [
        Prediction(index, labels[index].label, score, labels[index].wnid, damaged)
        for index, score in _largest(probabilities, top_k, min_score)
    ]


def top_groups(
    probabilities: NDArray[np.float32],
    labels: Sequence[ClassLabel],
    grouping: Grouping,
    top_k: int,
    min_score: float = -math.inf,
    *,
    language: str | None = None,
    damaged: bool = False,
) -> list[Prediction]:
    """Return the best groups, named in ``language``, and classes in none, as ``top_predictions`` returns classes."""
    found = []
    for column, score in _largest(grouping.sums(probabilities), top_k, min_score):
        group, classes = grouping.items[column]
        index = classes[int(probabilities[classes].argmax())]
        best = Prediction(index, labels[index].label, float(probabilities[index]), labels[index].wnid, damaged)
        if group is not None:
            best = Prediction(index, group.name(language), score, group.wnid, damaged, best)
        found.append(best)
    return found


def _largest(scores: NDArray[np.floating[Any]], top_k: int, min_score: float) -> list[tuple[int, float]]:
    """Return where the largest of scores (N,) are, and these."""
    count = min(top_k, scores.size)
    if scores.size <= _FEW:
        values, least = scores.tolist(), float(scores.dtype.type(min_score))
        best = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:count]
        return [(index, values[index]) for index in best if not values[index] < least]
    partitioned = scores.copy()
    partitioned.partition(-count)
    lowest = partitioned[-count]
    if min_score > lowest:
        lowest = scores.dtype.type(min_score)
    candidates = (~(scores < lowest)).nonzero()[0]  # all that are equal to the last one, too
    ranked = sorted(zip((-scores[candidates]).tolist(), candidates.tolist(), strict=True))[:count]
    return [(index, -negative) for negative, index in ranked]


def check_min_score(min_score: object) -> None:
    """Check what a caller gave as the lowest score, if any.

    Raises:
        OptionError: it is no number from 0 to 1.
    """
    is_number = isinstance(min_score, Real) and not isinstance(min_score, bool)
    if min_score is not None and not (is_number and 0 <= min_score <= 1):  # type: ignore[operator]
        raise OptionError(f"min_score must be a number from 0 to 1, not {min_score!r}.")


@dataclass(frozen=True)
class Choice:
    """Which of a model's classes a caller wants of an image."""

    top_k: int | None = None
    """At most so many; by default 5, and of a multi-label model as many as reach ``min_score``."""
    min_score: float | None = None
    """The lowest score that counts; by default 0, and of a multi-label model 0.5."""
    calibrated: bool = True
    """Use the model's temperature, if it has one."""
    coverage: float | None = None
    """Instead of these: as many classes as it takes for the right one to be among them with this probability."""
    unknown_below: float | None = None
    """No class at all for images that are less familiar than this share of the calibration's."""
    group: str | Sequence[str] | None = None
    """Groups whose classes' scores are added up, see ``groups.Grouping``."""


ALL_DEFAULTS = Choice()


@dataclass(frozen=True)
class Postprocessing:
    """How a model's logits become classes."""

    labels: Sequence[ClassLabel]
    multi_label: bool = False
    """Whether an image shows any number of the classes, each with a probability of its own, and not just one."""
    calibration: Calibration | None = None
    language: str | None = None
    """Of the labels, if they are names of ``names.LANGUAGES``, and of the groups."""
    original: Sequence[ClassLabel] | None = None
    """What the model itself calls the classes, where ``labels`` are other names: it tells what they are."""
    _groupings: dict[tuple[str, ...], Grouping] = field(default_factory=dict, repr=False, compare=False)

    def named(self, language: str) -> Postprocessing:
        """Return the same with names in a language of ``names.LANGUAGES``.

        Raises:
            OptionError: there is a class that has none.
        """
        from .names import named

        own = self.original or self.labels
        return replace(self, labels=named(own, language), language=language, original=own, _groupings={})

    @property
    def top_k(self) -> int:
        """Classes for each image at most, by default."""
        return len(self.labels) if self.multi_label else TOP_K

    def probabilities(self, logits: NDArray[np.float32], calibrated: bool = True) -> NDArray[np.float32]:
        """Return the probabilities of logits (N, classes) float32, of the same shape and type.

        Args:
            logits: what the network returned.
            calibrated: use the model's temperature, if it has one.
        """
        if self.multi_label:
            return sigmoid(logits)
        if calibrated and self.calibration is not None:
            logits = logits / np.float32(self.calibration.temperature)
        return softmax(logits)

    def check(self, choice: Choice) -> None:
        """Check what is wanted of this model's classes.

        Raises:
            OptionError: a number is out of its range, options exclude each other, or the model is not calibrated for
                them.
        """
        check_min_score(choice.min_score)
        check_share("coverage", choice.coverage)
        check_share("unknown_below", choice.unknown_below)
        if choice.coverage is not None:
            if choice.top_k is not None or choice.min_score is not None or not choice.calibrated:
                raise OptionError(
                    "coverage says which classes there are; leave out top_k and min_score, and calibrated=False."
                )
            self._need_calibration("coverage").min_score(choice.coverage)
        if choice.unknown_below is not None:
            self._need_calibration("unknown_below")
        if choice.group is not None:
            if self.multi_label:
                raise OptionError(
                    "The model is multi-label: its scores do not add up to those of a group; leave it out."
                )
            if choice.coverage is not None:
                raise OptionError("coverage is about single classes; leave out group, or coverage.")
            self.grouping(choice.group)

    def grouping(self, wanted: str | Sequence[str]) -> Grouping:
        """Return the classes in groups; raises as ``groups.Grouping`` does."""
        from .groups import Grouping, split

        key = split(wanted)
        found = self._groupings.get(key)
        if found is None:
            found = Grouping(len(self.labels), self._members, key)
            if len(self._groupings) >= _KEPT_GROUPINGS:  # clients of a server may ask for any
                self._groupings.clear()
            self._groupings[key] = found
        return found

    @cached_property
    def _members(self) -> dict[str, list[int]]:
        from .groups import members

        return members(self.original or self.labels)

    def known(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return how familiar images are by their logits (N, classes) float32: (N,) float64, 0 to 1.

        Raises:
            OptionError: the model is not calibrated.
        """
        return self._need_calibration("This").known(logits)

    def _need_calibration(self, name: str) -> Calibration:
        if self.calibration is None:
            raise OptionError(
                f"{name} needs a calibrated model; run 'ghostzoo eval --calibrate' with labelled images first."
            )
        return self.calibration

    def predictions(
        self,
        logits: NDArray[np.float32],
        choice: Choice = ALL_DEFAULTS,
        damaged: Sequence[bool] | None = None,
    ) -> list[list[Prediction]]:
        """Return the classes of each row of logits (N, classes) float32, best first.

        Args:
            logits: what the network returned.
            choice: which classes are wanted; it has been checked.
            damaged: whether the image of each row is damaged; by default none is.
        """
        top_k, min_score = choice.top_k or self.top_k, choice.min_score
        if min_score is None:
            min_score = THRESHOLD if self.multi_label else 0.0
        scores = self.probabilities(logits, choice.calibrated)
        if choice.coverage is not None:
            top_k, min_score = len(self.labels), self._need_calibration("coverage").min_score(choice.coverage)
        found = []
        grouping = None if choice.group is None else self.grouping(choice.group)
        for row, each in zip(scores, damaged or [False] * len(logits), strict=True):
            if grouping is not None:
                found.append(
                    top_groups(row, self.labels, grouping, top_k, min_score, language=self.language, damaged=each)
                )
                continue
            lowest = min_score if choice.coverage is None else min(min_score, float(row.max()))  # one class at least
            found.append(top_predictions(row, self.labels, top_k, lowest, damaged=each))
        if choice.unknown_below is not None:
            for index in np.flatnonzero(self.known(logits) < choice.unknown_below).tolist():
                found[index] = []
        return found

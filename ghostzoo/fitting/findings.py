"""What is worth knowing of labelled pictures: copies, pictures that look mislabelled, and those a head is unsure of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..similarity.duplicates import find_pairs, join, roots
from .pictures import Pictures

_SURE = 0.8
"""From this probability on, a head that never saw a picture contradicts its folder. With one label in twenty wrong, on
pictures of CIFAR-10's test split, that finds two thirds of them among 100 or more pictures of each class, and three in
five of those that it names are wrong."""
_FEW, _USUAL = 5, 20
"""Pictures of a class: fewer than the one are hardly enough, fewer than the other leave room."""
_UNBALANCED = 10
"""So many times as many pictures has the largest class of unbalanced ones."""
_NAMED = 5


@dataclass(frozen=True)
class Copy:
    """Two pictures that are the same, or nearly."""

    first: str
    second: str
    classes: tuple[str, str]

    @property
    def across(self) -> bool:
        """Whether they are in two classes, one of which must be wrong."""
        return self.classes[0] != self.classes[1]


@dataclass(frozen=True)
class Doubt:
    """What a head says of a picture that it has not seen."""

    name: str
    label: str
    """The folder that it is in."""
    predicted: str
    score: float
    """Of the predicted class."""
    own_score: float
    """Of its folder's class."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def find_copies(pictures: Pictures, classes: Sequence[str]) -> tuple[tuple[Copy, ...], NDArray[np.int64]]:
    """Return pairs of copies, those across classes first, and for each picture the number of its group of copies."""
    groups = np.arange(len(pictures))
    pairs = []
    for firsts, seconds in find_pairs(pictures.hashes, pictures.embeddings, threshold=None):
        join(groups, firsts, seconds)
        for first, second in zip(firsts.tolist(), seconds.tolist(), strict=True):
            names = pictures.names[first], pictures.names[second]
            pairs.append(Copy(*names, (classes[pictures.labels[first]], classes[pictures.labels[second]])))
    return tuple(sorted(pairs, key=lambda pair: not pair.across)), roots(groups, np.arange(len(groups)))


def find_doubts(
    pictures: Pictures, probabilities: NDArray[np.float32], classes: Sequence[str]
) -> tuple[tuple[Doubt, ...], tuple[Doubt, ...]]:
    """Return the pictures that look mislabelled, the surest first, and all others, those of least certainty first."""
    predicted = probabilities.argmax(axis=1)
    own = probabilities[np.arange(len(pictures)), pictures.labels]
    best = probabilities.max(axis=1)
    contradicted = (predicted != pictures.labels) & (best >= _SURE)
    doubts = [
        Doubt(name, classes[label], classes[said], float(score), float(mine))
        for name, label, said, score, mine in zip(pictures.names, pictures.labels, predicted, best, own, strict=True)
    ]
    certainty = np.partition(probabilities, -2, axis=1)
    margin = certainty[:, -1] - certainty[:, -2]
    suspects = [doubts[index] for index in np.argsort(-best) if contradicted[index]]
    unsure = [doubts[index] for index in np.argsort(margin) if not contradicted[index]]
    return tuple(suspects), tuple(unsure)


BUNDLED = (
    "The features are those of the bundled model, which learnt ten classes from pictures of 32 x 32 pixels: other "
    "classes and photographs it tells apart much less well than a model of ImageNet, such as --model GhostNet_x1_0. "
    "Pictures of CIFAR-10 it may have been trained on, so that their accuracy here is too good."
)


def find_warnings(
    counts: Sequence[int], classes: Sequence[str], copies: Sequence[Copy], suspects: Sequence[Doubt]
) -> tuple[str, ...]:
    """Say in sentences what is wrong with the pictures."""
    warnings = []
    few = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < _FEW]
    some = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if _FEW <= count < _USUAL]
    if few:
        warnings.append(
            f"{_classes(len(few))} fewer than {_FEW} pictures: {_listed(few)}; the accuracy below is hardly more than "
            "a guess."
        )
    if some:
        warnings.append(f"{_classes(len(some))} fewer than {_USUAL} pictures: {_listed(some)}; more will help.")
    if max(counts) >= _UNBALANCED * min(counts):
        largest, smallest = (classes[counts.index(pick(counts))] for pick in (max, min))
        warnings.append(
            f"{largest} has {max(counts)} pictures and {smallest} has {min(counts)}; all classes count the same in "
            "the fit, but what is learnt of the small ones is less certain."
        )
    across = [f"{copy.first} and {copy.second}" for copy in copies if copy.across]
    if across:
        warnings.append(f"{_pairs(len(across))} in two classes; remove one of each: {_listed(across)}.")
    within = [f"{copy.first} and {copy.second}" for copy in copies if not copy.across]
    if within:
        warnings.append(
            f"{_pairs(len(within))} in one class, which adds little: {_listed(within)}. They are kept "
            "together in the cross-validation, so the accuracy does not gain by them."
        )
    if suspects:
        names = [f"{doubt.name} (rather {doubt.predicted}, {doubt.score:.2f})" for doubt in suspects]
        warnings.append(f"{len(suspects)} picture(s) may be in the wrong folder: {_listed(names)}.")
    return tuple(warnings)


def _classes(count: int) -> str:
    return "1 class has" if count == 1 else f"{count} classes have"


def _pairs(count: int) -> str:
    return "1 pair of pictures is nearly the same" if count == 1 else f"{count} pairs of pictures are nearly the same"


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:_NAMED]) + (f" and {len(items) - _NAMED} more" if len(items) > _NAMED else "")

"""Accuracy of a loaded model on labelled images: top-1, top-5, per class, confusion matrix, most confident mistakes."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..catalog import PublishedFigures
from ..classifier import Classifier
from ..engines.batches import each_answer
from ..errors import ImageError, InputError
from ..images.decode import read_image
from ..labels import ClassLabel
from ..predictions import Choice, Prediction
from .calibrate import CalibrationReport, calibrate
from .datasets import ImageDataset, Sample, open_dataset

_CONFIDENCE = 0.95
_TOP = 5


@dataclass(frozen=True)
class Proportion:
    """A proportion of correct answers, with its 95 % confidence interval."""

    right: int
    total: int

    @property
    def value(self) -> float:
        """``nan`` if there are no images."""
        return self.right / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval (E. B. Wilson, 1927), valid also for few images and proportions near 0 or 1."""
        if not self.total:
            return 0.0, 1.0
        z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
        n, p = self.total, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        return max(0.0, centre - half), min(1.0, centre + half)

    def agrees_with(self, published: float) -> bool:
        """Whether the published figure lies within the interval."""
        low, high = self.interval
        return low <= published <= high

    def to_dict(self) -> dict[str, Any]:
        value = self.value if self.total else None
        return {"value": value, "interval": list(self.interval), "right": self.right, "total": self.total}


@dataclass(frozen=True, order=True)
class Mistake:
    """A misclassified image."""

    score: float
    """The probability that the model assigned to the wrong class."""
    name: str
    expected: int
    predicted: int
    sample: Sample


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation."""

    model: str
    engine: dict[str, Any]
    labels: tuple[ClassLabel, ...] = field(repr=False)
    top1: Proportion
    top5: Proportion
    confusion: NDArray[np.int64] = field(repr=False)
    """(classes, classes): the number of images of the row's class that were predicted as the column's class."""
    mistakes: tuple[Mistake, ...] = field(repr=False)
    """The most confident ones, in descending order."""
    unreadable: tuple[ImageError, ...] = field(repr=False)
    """Images that could not be read; no other figure counts them."""
    seconds: float
    published: PublishedFigures | None = None
    """The catalog's figures, if these are its weights."""
    data: str = ""
    """The name of the images."""
    damaged: tuple[str, ...] = ()
    """Names of the images that were read leniently; they are in all figures."""
    read_image: Callable[[Any], NDArray[np.uint8]] = read_image
    """How the classifier reads images, for those that are shown."""
    calibration: CalibrationReport | None = None

    @property
    def images_per_second(self) -> float:
        return self.top1.total / self.seconds if self.seconds else float("nan")

    def class_recall(self, index: int) -> Proportion:
        """The proportion of images of class ``index`` that were classified correctly."""
        return Proportion(int(self.confusion[index, index]), int(self.confusion[index].sum()))

    def class_precision(self, index: int) -> Proportion:
        """The proportion of predictions of class ``index`` that are correct."""
        return Proportion(int(self.confusion[index, index]), int(self.confusion[:, index].sum()))

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON types; classes without images or predictions are omitted."""
        seen = np.flatnonzero(self.confusion.sum(axis=0) + self.confusion.sum(axis=1))
        report: dict[str, Any] = {
            "model": self.model,
            "engine": self.engine,
            "data": self.data,
            "images": self.top1.total,
            "top1": self.top1.to_dict(),
            "top5": self.top5.to_dict(),
            "images_per_second": self.images_per_second,
            "damaged": list(self.damaged),
            "unreadable": [{"image": error.source, "error": error.reason} for error in self.unreadable],
            "classes": [
                {
                    "index": index,
                    "label": self.labels[index].label,
                    "recall": self.class_recall(index).to_dict(),
                    "precision": self.class_precision(index).to_dict(),
                }
                for index in seen.tolist()
            ],
            "mistakes": [
                {
                    "image": mistake.name,
                    "expected": self.labels[mistake.expected].label,
                    "predicted": self.labels[mistake.predicted].label,
                    "score": mistake.score,
                }
                for mistake in self.mistakes
            ],
        }
        if self.calibration is not None:
            report["calibration"] = self.calibration.to_dict()
        if self.published is not None:
            report["published"] = {
                "top1": self.published.top1,
                "top1_agrees": self.top1.agrees_with(self.published.top1),
                "top5": self.published.top5,
                "top5_agrees": self.top5.agrees_with(self.published.top5),
                "source": self.published.source,
            }
        return report


def evaluate(
    classifier: Classifier,
    dataset: ImageDataset,
    *,
    data: str = "",
    published: PublishedFigures | None = None,
    batch_size: int = 8,
    max_mistakes: int = 48,
    calibrated: bool = False,
    on_image: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Classify all images of ``dataset`` and compute the figures.

    Args:
        classifier: the loaded model.
        dataset: labelled images whose labels are the model's class indices (see ``with_model_classes``).
        data: the name of the images in the report.
        published: figures to compare the result with.
        batch_size: images per call of the engine.
        max_mistakes: the number of most confident mistakes to keep.
        calibrated: calibrate the model on these images, too.
        on_image: called after each image, for a progress bar.

    Raises:
        InputError: no image could be read, or too few to calibrate on.
    """
    classes = classifier.bundle.num_classes
    confusion = np.zeros((classes, classes), np.int64)
    right5 = 0
    worst: list[Mistake] = []
    unreadable: list[ImageError] = []
    damaged: list[str] = []
    start = time.perf_counter()
    failed: dict[str, ImageError] = {}
    kept: list[NDArray[np.float32]] = []
    truth: list[int] = []
    rank = partial(classifier.bundle.postprocessing.predictions, choice=Choice(_TOP))
    results: Iterator[tuple[list[Prediction], NDArray[np.float32]] | ImageError] = each_answer(
        classifier.outputs(_sources(dataset.samples, failed), batch_size, "logits", raise_errors=False),
        lambda rows, damaged: zip(rank(rows, damaged=damaged), rows, strict=True),
    )
    for sample, answer in zip(dataset.samples, results, strict=True):
        on_image()
        if isinstance(answer, ImageError):
            unreadable.append(ImageError(sample.name, failed.get(sample.name, answer).reason))
            continue
        top, logits = answer
        if calibrated:
            kept.append(logits)
            truth.append(sample.label)
        best = top[0]
        if best.damaged:
            damaged.append(sample.name)
        confusion[sample.label, best.index] += 1
        right5 += any(prediction.index == sample.label for prediction in top)
        if best.index != sample.label:
            mistake = Mistake(best.score, sample.name, sample.label, best.index, sample)
            (heapq.heappush if len(worst) < max_mistakes else heapq.heappushpop)(worst, mistake)
    seconds = time.perf_counter() - start
    total = int(confusion.sum())
    if not total:
        raise InputError(f"None of the {len(unreadable)} images could be read; first: {unreadable[0]}.")
    return Evaluation(
        model=classifier.bundle.name,
        engine=classifier.engine.describe(),
        labels=classifier.bundle.labels,
        top1=Proportion(int(confusion.trace()), total),
        top5=Proportion(right5, total),
        confusion=confusion,
        mistakes=tuple(sorted(worst, reverse=True)),
        unreadable=tuple(unreadable),
        seconds=seconds,
        published=published,
        data=data,
        damaged=tuple(damaged),
        read_image=classifier.read_image,
        calibration=calibrate(np.stack(kept), np.array(truth)) if calibrated else None,
    )


def open_labelled(path: str | PathLike[str], labels: Sequence[ClassLabel]) -> ImageDataset:
    """Open labelled images (as ``open_dataset``) with the model's class indices.

    Raises:
        InputError: the data cannot be read, or their classes are not the model's.
    """
    if Path(path).is_file() and Path(path).suffix.lower() == ".txt":  # a list file has the model's indices
        return open_dataset(path, classes=[label.label for label in labels])
    by_name = _classes_by_name(labels)
    return with_model_classes(open_dataset(path, is_class=lambda name: len(by_name(name)) == 1), labels)


def with_model_classes(dataset: ImageDataset, labels: Sequence[ClassLabel]) -> ImageDataset:
    """Replace the dataset's class indices by the model's, matching classes by name.

    A class may be named by its WordNet id, its label, the first of the label's comma-separated synonyms (with spaces or
    underscores, in any case), or its index.

    Raises:
        InputError: a name matches no class, or several.
    """
    matches = list(map(_classes_by_name(labels), dataset.classes))
    strange = [name for name, match in zip(dataset.classes, matches, strict=True) if len(match) != 1]
    if strange:
        raise InputError(
            f"{len(strange)} of {len(dataset.classes)} class names do not match exactly one class of the model: "
            f"{', '.join(strange[:5])}; name the folders by WordNet id, label or index, or use a list file."
        )
    indices = [next(iter(match)) for match in matches]
    samples = tuple(replace(sample, label=indices[sample.label]) for sample in dataset.samples)
    return replace(dataset, samples=samples, classes=tuple(label.label for label in labels))


def _classes_by_name(labels: Sequence[ClassLabel]) -> Callable[[str], set[int]]:
    by_name: dict[str, set[int]] = {}
    for index, label in enumerate(labels):
        for name in {label.wnid or "", _key(label.label), _key(label.label.split(",")[0]), str(index)}:
            by_name.setdefault(name, set()).add(index)
    return lambda name: by_name.get(name) or by_name.get(_key(name)) or set()


def take_evenly(dataset: ImageDataset, limit: int | None) -> ImageDataset:
    """Return at most ``limit`` samples, evenly spaced over the list, so that every class keeps its proportion."""
    count = len(dataset.samples)
    if limit is None or limit >= count:
        return dataset
    return replace(dataset, samples=tuple(dataset.samples[index * count // limit] for index in range(limit)))


def _sources(samples: Sequence[Sample], failed: dict[str, ImageError]) -> Iterator[Path | bytes]:
    """Yield what to classify for each sample; empty bytes if it cannot be read, with the error in ``failed``."""
    for sample in samples:
        try:
            yield sample.path if sample.size is None else sample.read()
        except ImageError as error:
            failed[sample.name] = error
            yield b""


def _key(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())

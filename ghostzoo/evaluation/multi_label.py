"""How well a multi-label model finds the classes of labelled images: average precision, and F1 at the threshold."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..classifier import Classifier
from ..errors import ImageError, InputError
from ..labels import ClassLabel
from ..predictions import THRESHOLD
from .datasets import ImageDataset, Sample, open_dataset
from .evaluate import Proportion

_SHOWN = 80
"""Letters of a wrong line."""


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """The result of an evaluation of a multi-label model."""

    model: str
    engine: dict[str, Any]
    labels: tuple[ClassLabel, ...]
    threshold: float
    """The score from which on a class counts as said."""
    images: int
    average_precision: NDArray[np.float64]
    """(classes,); ``nan`` for a class that no image shows."""
    shown: NDArray[np.int64]
    """(classes,): images that show the class, by their labels."""
    said: NDArray[np.int64]
    """(classes,): images for which the model says the class."""
    right: NDArray[np.int64]
    """(classes,): images of which both are true."""
    unreadable: tuple[ImageError, ...]
    """Images that are in no other figure."""
    seconds: float
    data: str = ""
    """What the images are called."""
    damaged: tuple[str, ...] = ()
    """Names of the images that were read leniently; they are in all figures."""

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else float("nan")

    @property
    def mean_average_precision(self) -> float:
        """Mean over the classes that an image shows, as PaddleClas's ``MultiLabelMAP`` takes it."""
        return float(np.nanmean(self.average_precision))

    @property
    def f1(self) -> NDArray[np.float64]:
        """(classes,): harmonic mean of precision and recall; ``nan`` for a class neither shown nor said."""
        total = self.shown + self.said
        return np.where(total > 0, 2 * self.right / np.maximum(total, 1), np.nan)

    @property
    def micro_f1(self) -> float:
        """F1 over all decisions on all classes together."""
        return float(2 * self.right.sum() / (self.shown.sum() + self.said.sum()))

    @property
    def macro_f1(self) -> float:
        """Mean of the classes' F1."""
        return float(np.nanmean(self.f1))

    def class_recall(self, index: int) -> Proportion:
        """Share of the images that show class ``index`` for which the model says it."""
        return Proportion(int(self.right[index]), int(self.shown[index]))

    def class_precision(self, index: int) -> Proportion:
        """Share of right ones among the images for which the model says ``index``."""
        return Proportion(int(self.right[index]), int(self.said[index]))

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON types; classes that are neither shown nor said are left out of the table."""
        return {
            "model": self.model,
            "engine": self.engine,
            "data": self.data,
            "images": self.images,
            "mean_average_precision": self.mean_average_precision,
            "threshold": self.threshold,
            "micro_f1": self.micro_f1,
            "macro_f1": self.macro_f1,
            "images_per_second": self.images_per_second,
            "unreadable": [{"image": error.source, "error": error.reason} for error in self.unreadable],
            "classes": [
                {
                    "index": index,
                    "label": self.labels[index].label,
                    "average_precision": float(self.average_precision[index]) if self.shown[index] else None,
                    "f1": float(self.f1[index]),
                    "recall": self.class_recall(index).to_dict(),
                    "precision": self.class_precision(index).to_dict(),
                }
                for index in np.flatnonzero(self.shown + self.said).tolist()
            ],
        }


def evaluate_multi_label(
    classifier: Classifier,
    dataset: ImageDataset,
    *,
    data: str = "",
    min_score: float | None = None,
    batch_size: int = 8,
    on_image: Callable[[], object] = lambda: None,
) -> MultiLabelEvaluation:
    """Classify every image of ``dataset`` and hold the scores of all classes against what it shows.

    Args:
        classifier: the loaded model.
        dataset: what ``open_multi_label`` returned for the model's classes.
        data: what to call the images in the report.
        min_score: the score from which on a class counts as said; 0.5 by default.
        batch_size: images a call of the engine.
        on_image: called after each image, for a progress bar.

    Raises:
        InputError: no image could be read, or none shows any class.
    """
    classes = classifier.bundle.num_classes
    scores = np.zeros((len(dataset.samples), classes), np.float32)
    truth = np.zeros(scores.shape, np.bool_)
    images = 0
    unreadable: list[ImageError] = []
    damaged: list[str] = []
    start = time.perf_counter()
    paths = [sample.path for sample in dataset.samples]
    results = classifier.predict(paths, classes, batch_size, min_score=0.0, on_error="return")
    for sample, found in zip(dataset.samples, results, strict=True):
        on_image()
        if isinstance(found, ImageError):
            unreadable.append(ImageError(sample.name, found.reason))
            continue
        if found[0].damaged:
            damaged.append(sample.name)
        scores[images, [each.index for each in found]] = [each.score for each in found]
        truth[images, list(sample.shown)] = True
        images += 1
    seconds = time.perf_counter() - start
    if not images:
        raise InputError(f"None of the {len(unreadable)} images could be read; first: {unreadable[0]}.")
    scores, truth = scores[:images], truth[:images]
    if not truth.any():
        raise InputError("No image shows any class, by its labels; there is nothing to find.")
    threshold = THRESHOLD if min_score is None else min_score
    said = scores >= np.float32(threshold)
    return MultiLabelEvaluation(
        model=classifier.bundle.name,
        engine=classifier.engine.describe(),
        labels=classifier.bundle.labels,
        threshold=threshold,
        images=images,
        average_precision=np.array([average_precision(scores[:, index], truth[:, index]) for index in range(classes)]),
        shown=truth.sum(axis=0),
        said=said.sum(axis=0),
        right=(said & truth).sum(axis=0),
        unreadable=tuple(unreadable),
        seconds=seconds,
        data=data,
        damaged=tuple(damaged),
    )


def average_precision(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """Return the area under the curve of precision over recall, without interpolation; ``nan`` if nothing is true.

    Equal scores are one step of the curve, so that the images' order does not count.
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores)
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of equal scores
    right = truth[order].cumsum()[last]
    return float((np.diff(right, prepend=0) * right / (last + 1)).sum() / right[-1])


def open_multi_label(path: str | PathLike[str], labels: Sequence[ClassLabel]) -> ImageDataset:
    """List the images of a ``.txt`` file in the format of PaddleClas's ``MultiLabelDataset``.

    A line is ``<path><tab>0,1,0,...``: a path relative to the file's own folder, and a 1 for each class that the image
    shows, in the order of the model's classes.

    Raises:
        InputError: there is no such file, or a line is another.
    """
    path = Path(path)
    wanted = "a .txt list file with a line '<path><tab>0,1,0,...' for each image, a 1 for each class that it shows"
    if not path.is_file() or path.suffix.lower() != ".txt":
        raise InputError(f"The model is a multi-label one, which {path} does not suit; pass {wanted}.")
    classes = [label.label for label in labels]
    dataset = open_dataset(path, classes=classes, labelled=False)  # whose names are whole lines here
    return replace(dataset, samples=tuple(_read_line(path, sample, len(labels)) for sample in dataset.samples))


def _read_line(path: Path, line: Sample, classes: int) -> Sample:
    name, _, values = line.name.rpartition("\t")
    marks = values.split(",")
    if not name or not set(marks) <= {"0", "1"}:
        raise InputError(f"{path}: expected '<path><tab>0,1,0,...', found {line.name[:_SHOWN]!r}.")
    if len(marks) != classes:
        raise InputError(f"{path}: {name[:_SHOWN]} has {len(marks)} values, and the model {classes} classes.")
    shown = tuple(index for index, mark in enumerate(marks) if mark == "1")
    return replace(line, name=name, path=path.parent / name, shown=shown)

"""What a run learns from and is measured on: opened, checked image by image, and split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from exporters.training.loading import ImageStore, find_unreadable
from exporters.training.place import Place
from ghostzoo._utils.files import write_atomically
from ghostzoo.cli.console import progress
from ghostzoo.errors import ImageError, InputError, LabelsError, OptionError
from ghostzoo.evaluation.datasets import ImageDataset, open_dataset
from ghostzoo.labels import read_labels

UNREADABLE_FILE = "unreadable.txt"
_LISTED = 5
_SPLIT_STREAM = 0x5EED  # of random numbers


@dataclass(frozen=True)
class DataSources:
    """Where the images are; each path is a folder, a tar or a list file."""

    data: Path
    labels: Path | None = None
    """A label file that names a list file's class indices."""
    validation: Path | None = None
    validation_split: float = 0.0
    """Share of ``data`` that is kept from training, where ``validation`` is ``None``."""
    unlabelled: Path | None = None
    skip_unreadable: bool = False


@dataclass(frozen=True)
class Data:
    """Readable images, by what they are for."""

    training: ImageDataset
    """Labelled images, then the unlabelled ones."""
    validation: ImageDataset | None
    unlabelled: int
    skipped: int
    passed_over: int = 0
    """Files that are no images by their names."""

    def facts(self) -> dict[str, Any]:
        """Return the counts, by what they count."""
        facts = {"classes": len(self.training.classes), "training_images": len(self.training.samples) - self.unlabelled}
        if self.unlabelled:
            facts["unlabelled_images"] = self.unlabelled
        if self.validation is not None:
            facts["validation_images"] = len(self.validation.samples)
        if self.skipped:
            facts["unreadable_images_left_out"] = self.skipped
        if self.passed_over:
            facts["other_files_passed_over"] = self.passed_over
        return facts


def open_data(
    sources: DataSources, out: Path, *, seed: int, store: ImageStore, workers: int, place: Place, quiet: bool
) -> Data:
    """List and decode all images; what cannot be read is listed in ``out`` and, if allowed, left out.

    Args:
        sources: where the images are.
        out: the run's folder.
        seed: decides which images are kept for validation.
        store: decoded images go through it.
        workers: threads that decode.
        place: several processes share the work.
        quiet: show no progress bar.

    Raises:
        InputError: images cannot be read and may not be left out, or a class has none.
        GhostZooError: the data cannot be used.
    """
    training, validation, unlabelled = split_sources(sources, seed)
    present = [dataset for dataset in (training, validation, unlabelled) if dataset is not None]
    total = sum(len(dataset.samples) // place.world for dataset in present)
    with progress(0 if quiet else total, "checking images") as advance:
        errors = [_find_unreadable(dataset, store, workers, place, advance) for dataset in present]
    _report_unreadable([error for each in errors for error in each], out, place, allowed=sources.skip_unreadable)
    checked = [_without(dataset, each) for dataset, each in zip(present, errors, strict=True)]
    training = checked[0]
    _check_every_class(sources.data, training)
    extra = checked[-1].samples if unlabelled is not None else ()
    return Data(
        ImageDataset(training.samples + extra, training.classes),
        checked[1] if validation is not None else None,
        len(extra),
        sum(map(len, errors)),
        sum(dataset.passed_over for dataset in present),
    )


def take_validation(dataset: ImageDataset, share: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """Take ``share`` of each class (at least one image) out, by a draw that depends on ``seed`` alone.

    Returns:
        What is left, and what was taken out.

    Raises:
        InputError: a class has a single image.
    """
    rng = np.random.default_rng((seed, _SPLIT_STREAM))
    labels = np.array([sample.label for sample in dataset.samples])
    taken: set[int] = set()
    for label, name in enumerate(dataset.classes):
        members = np.flatnonzero(labels == label)
        if len(members) == 1:
            raise InputError(f"Class {name!r} has a single image, which cannot be split; add images or pass --val.")
        count = min(max(1, round(share * len(members))), len(members) - 1)
        taken.update(rng.permutation(members)[: max(count, 0)].tolist())
    left = tuple(sample for index, sample in enumerate(dataset.samples) if index not in taken)
    right = tuple(dataset.samples[index] for index in sorted(taken))
    return replace(dataset, samples=left), replace(dataset, samples=right, passed_over=0)


def split_sources(sources: DataSources, seed: int) -> tuple[ImageDataset, ImageDataset | None, ImageDataset | None]:
    """List the images to train on, to measure on, and without labels; the split depends on names and seed alone.

    Raises:
        GhostZooError: the data cannot be used.
    """
    names = None if sources.labels is None else _class_names(sources.labels, sources.data)
    training = _in_order(open_dataset(sources.data, classes=names))
    validation = unlabelled = None
    if sources.validation is not None:
        validation = open_dataset(sources.validation, classes=training.classes)
    elif sources.validation_split:
        training, validation = take_validation(training, sources.validation_split, seed)
    if sources.unlabelled is not None:
        unlabelled = _in_order(open_dataset(sources.unlabelled, labelled=False))
    return training, validation, unlabelled


def _class_names(labels: Path, data: Path) -> tuple[str, ...]:
    if data.suffix.lower() != ".txt":
        raise OptionError(f"--labels names the classes of a list file; those of {data} bear their folders' names.")
    try:
        lines = labels.read_bytes().splitlines()
    except OSError as error:
        raise LabelsError(f"Cannot read the label file {labels}: {error.strerror or error}; check the path.") from error
    count = sum(1 for line in lines if line.strip())
    return tuple(label.label for label in read_labels(labels, count))


def _in_order(dataset: ImageDataset) -> ImageDataset:
    """Sort by folder and name, so that a folder and a tar of it are trained on in the same order."""
    ordered = sorted(dataset.samples, key=lambda sample: PurePosixPath(sample.name).parts)
    return replace(dataset, samples=tuple(ordered))


def _check_every_class(path: Path, dataset: ImageDataset) -> None:
    counts = Counter(sample.label for sample in dataset.samples)
    empty = [repr(name) for label, name in enumerate(dataset.classes) if not counts[label]]
    if empty:
        shown = ", ".join(empty[:_LISTED]) + (" ..." if len(empty) > _LISTED else "")
        raise InputError(f"{path} has no readable training image of {len(empty)} class(es): {shown}; add some.")


def _find_unreadable(
    dataset: ImageDataset, store: ImageStore, workers: int, place: Place, advance: Callable[[], None]
) -> list[ImageError]:
    share = dataset.samples[place.rank :: place.world]
    errors = place.gather(find_unreadable(store, share, workers, advance))
    return sorted(errors, key=lambda error: error.source)


def _without(dataset: ImageDataset, errors: list[ImageError]) -> ImageDataset:
    names = {error.source for error in errors}
    return replace(dataset, samples=tuple(sample for sample in dataset.samples if sample.name not in names))


def _report_unreadable(errors: list[ImageError], out: Path, place: Place, *, allowed: bool) -> None:
    listed = out / UNREADABLE_FILE
    if place.is_first:
        listed.unlink(missing_ok=True)
        if errors:
            write_atomically(listed, "".join(f"{error}\n" for error in errors).encode("utf-8", "backslashreplace"))
    if errors and not allowed:
        shown = "; ".join(map(str, errors[:_LISTED])) + (" ..." if len(errors) > _LISTED else "")
        raise InputError(
            f"{len(errors)} image(s) cannot be read: {shown}. All are listed in {listed}; "
            "repair or remove them, or leave them out with --skip-unreadable."
        )

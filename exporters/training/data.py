"""Training and validation data: the sources, their split, and a cache of decoded images. Batches: ``loader.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from exporters.training.augmentation import Image
from exporters.training.distributed import Process
from ghostzoo._utils.files import write_atomically
from ghostzoo.cli.bars import progress
from ghostzoo.errors import ImageError, InputError, OptionError
from ghostzoo.evaluation.datasets import ImageDataset, Sample, open_dataset
from ghostzoo.images.decode import read_image
from ghostzoo.labels import read_labels

UNREADABLE_FILE = "unreadable.txt"
_SHOWN = 5
_SPLIT_STREAM = 0x5EED  # of random numbers; loader.py has others

Groups = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class DataSources:
    """Where the images are: each path is a folder, a tar or a list file."""

    data: Path
    labels: Path | None = None
    """Label file that names the class indices of a list file."""
    validation: Path | None = None
    validation_split: float = 0.0
    """Share of ``data`` to hold out if ``validation`` is ``None``."""
    unlabelled: Path | None = None
    more: tuple[tuple[Path, float], ...] = ()
    """Further labelled images, and how often an epoch shows each; their classes join those of ``data``."""
    unlabelled_share: float = 1.0
    """How often an epoch shows each unlabelled image."""
    skip_unreadable: bool = False


class ImageCache:
    """Decodes images, and keeps as many of them in memory as fit into ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes
        self._images: dict[tuple[object, int], Image] = {}

    def read(self, sample: Sample) -> Image:
        """Return the image as RGB.

        Raises:
            ImageError: the image cannot be read.
        """
        key = (sample.path, sample.offset)
        image = self._images.get(key)
        if image is None:
            try:
                image = read_image(sample.read())
            except ImageError as error:
                raise ImageError(sample.name, error.reason) from error
            # Two threads may both store the same image and count it twice, which is harmless.
            if image.nbytes <= self._free:
                self._free -= image.nbytes
                self._images[key] = image
        return image


@dataclass(frozen=True)
class TrainingData:
    """The readable images of a run."""

    training: ImageDataset
    """Labelled images, followed by unlabelled ones."""
    validation: ImageDataset | None
    images: ImageCache
    unlabelled: int
    skipped: int
    """Unreadable images."""
    passed_over: int = 0
    """Files that are not named like images."""
    groups: Groups = ()
    """(images, share) of each source, in the order of ``training``; empty if an epoch shows each image once."""

    def facts(self) -> dict[str, Any]:
        """Return what there is of each kind, for the manifest."""
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
    sources: DataSources, out: Path, *, seed: int, cache_bytes: int, workers: int, process: Process, quiet: bool
) -> TrainingData:
    """List and decode all images; unreadable ones are listed in ``out`` and, if allowed, left out.

    Args:
        sources: where the images are.
        out: the run's folder.
        seed: decides which images are held out for validation.
        cache_bytes: memory for decoded images.
        workers: decoding threads.
        process: the processes share the work.
        quiet: show no progress bar.

    Raises:
        InputError: images are unreadable and may not be left out, or a class has none.
        GhostZooError: the data cannot be used.
    """
    images = ImageCache(cache_bytes)
    training, validation, unlabelled = split_sources(sources, seed)
    rest = [dataset for dataset in (validation, unlabelled) if dataset is not None]
    present = [*training, *rest]
    total = sum(len(dataset.samples) // process.world_size for dataset in present)
    with progress(0 if quiet else total, "checking images") as advance:
        errors = [_find_unreadable(dataset, images, workers, process, advance) for dataset in present]
    _report_unreadable([error for each in errors for error in each], out, process, allowed=sources.skip_unreadable)
    readable = [_without(dataset, each) for dataset, each in zip(present, errors, strict=True)]
    labelled = readable[: len(training)]
    extra = readable[-1].samples if unlabelled is not None else ()
    joined = _join([*labelled, ImageDataset(extra, training[0].classes)])
    _check_every_class(sources.data, joined)
    shares = (1.0, *(share for _, share in sources.more), sources.unlabelled_share)
    sizes = (*(len(dataset.samples) for dataset in labelled), len(extra))
    return TrainingData(
        joined,
        readable[len(training)] if validation is not None else None,
        images,
        len(extra),
        sum(map(len, errors)),
        sum(dataset.passed_over for dataset in present),
        groups=tuple(zip(sizes, shares, strict=True)) if set(shares) != {1.0} else (),
    )


def split_sources(
    sources: DataSources, seed: int
) -> tuple[list[ImageDataset], ImageDataset | None, ImageDataset | None]:
    """List the training images of each source, the validation and the unlabelled images.

    The split depends on their names and ``seed`` alone.

    Raises:
        GhostZooError: the data cannot be used.
    """
    names = None if sources.labels is None else _class_names(sources.labels, sources.data)
    training = _with_all_classes(
        [
            _sorted_by_name(open_dataset(sources.data, classes=names)),
            *(_sorted_by_name(open_dataset(path)) for path, _ in sources.more),
        ]
    )
    classes = training[0].classes
    if len(classes) < 2:
        raise InputError(f"{sources.data} has {len(classes)} class; a classifier needs at least two to train.")
    validation = unlabelled = None
    if sources.validation is not None:
        validation = open_dataset(sources.validation, classes=classes)
    elif sources.validation_split:
        split = [split_validation(dataset, sources.validation_split, seed) for dataset in training]
        training, validation = [left for left, _ in split], _join([right for _, right in split])
    if sources.unlabelled is not None:
        unlabelled = _sorted_by_name(open_dataset(sources.unlabelled, labelled=False))
    return training, validation, unlabelled


def _with_all_classes(datasets: list[ImageDataset]) -> list[ImageDataset]:
    """Give all datasets the same classes: those of the first in their order, then those that others add."""
    first = datasets[0].classes
    classes = (*first, *sorted({name for dataset in datasets for name in dataset.classes} - set(first)))
    return [
        replace(
            dataset,
            classes=classes,
            samples=tuple(
                replace(sample, label=classes.index(dataset.classes[sample.label])) for sample in dataset.samples
            ),
        )
        for dataset in datasets
    ]


def _join(datasets: Sequence[ImageDataset]) -> ImageDataset:
    return ImageDataset(tuple(sample for dataset in datasets for sample in dataset.samples), datasets[0].classes)


def split_validation(dataset: ImageDataset, share: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """Hold out ``share`` of each class (at least one image), chosen by ``seed`` alone.

    Returns:
        Training and validation images.

    Raises:
        InputError: a class has a single image.
    """
    rng = np.random.default_rng((seed, _SPLIT_STREAM))
    labels = np.array([sample.label for sample in dataset.samples])
    held_out: set[int] = set()
    for label, name in enumerate(dataset.classes):
        members = np.flatnonzero(labels == label)
        if len(members) == 1:
            raise InputError(f"Class {name!r} has a single image, which cannot be split; add images or pass --val.")
        if not len(members):
            continue  # a class of another source
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held_out.update(rng.permutation(members)[: max(count, 0)].tolist())
    training = tuple(sample for index, sample in enumerate(dataset.samples) if index not in held_out)
    validation = tuple(dataset.samples[index] for index in sorted(held_out))
    return replace(dataset, samples=training), replace(dataset, samples=validation, passed_over=0)


def _class_names(labels: Path, data: Path) -> tuple[str, ...]:
    if data.suffix.lower() != ".txt":
        raise OptionError(f"--labels names the classes of a list file; those of {data} are named by its folders.")
    return tuple(label.label for label in read_labels(labels))


def _sorted_by_name(dataset: ImageDataset) -> ImageDataset:
    """Sort by folder and name, so that training sees a folder and a tar of it in the same order."""
    ordered = sorted(dataset.samples, key=lambda sample: PurePosixPath(sample.name).parts)
    return replace(dataset, samples=tuple(ordered))


def _check_every_class(path: Path, dataset: ImageDataset) -> None:
    counts = Counter(sample.label for sample in dataset.samples)
    empty = [repr(name) for label, name in enumerate(dataset.classes) if not counts[label]]
    if empty:
        shown = ", ".join(empty[:_SHOWN]) + (" ..." if len(empty) > _SHOWN else "")
        raise InputError(f"{path} has no readable training images of {len(empty)} class(es): {shown}; add some.")


def _find_unreadable(
    dataset: ImageDataset, images: ImageCache, workers: int, process: Process, advance: Callable[[], None]
) -> list[ImageError]:
    def check(sample: Sample) -> ImageError | None:
        try:
            images.read(sample)
        except ImageError as error:
            return error
        finally:
            advance()
        return None

    with ThreadPoolExecutor(workers) as pool:
        checked = pool.map(check, dataset.samples[process.rank :: process.world_size])
        errors = process.gather([error for error in checked if error is not None])
    return sorted(errors, key=lambda error: error.source)


def _without(dataset: ImageDataset, errors: list[ImageError]) -> ImageDataset:
    names = {error.source for error in errors}
    return replace(dataset, samples=tuple(sample for sample in dataset.samples if sample.name not in names))


def _report_unreadable(errors: list[ImageError], out: Path, process: Process, *, allowed: bool) -> None:
    listed = out / UNREADABLE_FILE
    if process.is_main:
        listed.unlink(missing_ok=True)
        if errors:
            write_atomically(listed, "".join(f"{error}\n" for error in errors).encode("utf-8", "backslashreplace"))
    if errors and not allowed:
        shown = "; ".join(map(str, errors[:_SHOWN])) + (" ..." if len(errors) > _SHOWN else "")
        raise InputError(
            f"{len(errors)} image(s) cannot be read: {shown}. All are listed in {listed}; "
            "repair or remove them, or leave them out with --skip-unreadable."
        )

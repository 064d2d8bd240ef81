"""One training run, from the data on disk to weights and a bundle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch

from ghostzoo.bundle import Bundle
from ghostzoo.catalog import Preprocessing
from ghostzoo.cpus import usable_cpus
from ghostzoo.datasets import ImageDataset, open_dataset
from ghostzoo.errors import ImageError, InputError, OptionError
from ghostzoo.files import write_atomically
from ghostzoo.labels import read_labels
from ghostzoo.manifest import check_name
from ghostzoo.terminal import progress

from .checkpoints import FILE_NAME
from .distill import Teacher, load_teacher
from .finish import write_results
from .loading import ImageStore, find_unreadable, take_validation
from .loop import Place, Trainer
from .recipe import Recipe
from .reporting import Reporter
from .starting import start_network

UNREADABLE_FILE = "unreadable.txt"
_LISTED = 5


@dataclass(frozen=True)
class Request:
    """Everything about a run that is not its recipe: where things are, and what the machine may be used for."""

    data: Path
    out: Path
    name: str
    """Of the bundle."""
    validation: Path | None = None
    validation_split: float = 0.0
    """Share of ``data`` that is kept from training, where ``validation`` is ``None``."""
    unlabelled: Path | None = None
    labels: Path | None = None
    """A label file for a list file's class indices."""
    init: Path | None = None
    teacher: Path | None = None
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    cache_bytes: int = 2**30
    checkpoint_minutes: float = 10.0
    skip_unreadable: bool = False
    resume: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Data:
    """What a run learns from and is measured on."""

    training: ImageDataset
    """Labelled images, then the unlabelled ones."""
    validation: ImageDataset | None
    unlabelled: int
    skipped: int

    def facts(self) -> dict[str, Any]:
        """Return the counts, by what they count."""
        facts: dict[str, Any] = {"training_images": len(self.training.samples) - self.unlabelled}
        if self.unlabelled:
            facts["unlabelled_images"] = self.unlabelled
        if self.validation is not None:
            facts["validation_images"] = len(self.validation.samples)
        if self.skipped:
            facts["unreadable_images_left_out"] = self.skipped
        return facts


def train_model(recipe: Recipe, request: Request) -> Bundle | None:
    """Train, and write ``weights.pdparams`` and ``bundle`` to the run's folder.

    Returns:
        The bundle; ``None`` in all processes but the first.

    Raises:
        GhostZooError: data, options or files cannot be used; the last checkpoint is kept.
    """
    check_name(request.name)
    with open_place(request.device) as place:
        _prepare_folder(request, place)
        threads = request.threads or max(1, usable_cpus() // place.world)
        torch.set_num_threads(threads)
        cv2.setNumThreads(1)  # images are prepared side by side instead
        workers = request.workers or threads
        is_first = place.rank == 0
        reporter = Reporter(request.out, recipe.epochs, quiet=request.quiet or not is_first, writes=is_first)
        store = ImageStore(request.cache_bytes)
        data = _open_data(recipe, request, store, workers, place)
        classes = data.training.classes
        reporter.say(f"{len(classes)} classes, " + ", ".join(f"{v} {_words(k)}" for k, v in data.facts().items()))
        network, start = start_network(recipe, len(classes), request.init)
        trainer = Trainer(
            recipe,
            network,
            data.training,
            data.validation,
            out=request.out,
            store=store,
            reporter=reporter,
            place=place,
            workers=workers,
            preprocessing=preprocessing_of(recipe),
            teacher=_open_teacher(recipe, request, classes, place),
            checkpoint_minutes=request.checkpoint_minutes,
        )
        if request.resume:
            trainer.resume()
            reporter.say(f"resumed after {trainer.epoch} epochs and {trainer.step} steps")
        try:
            trainer.run()
            reporter.finish(trainer.history)
        finally:
            reporter.close()
        if not is_first:
            return None
        facts = {"starting_point": start, **data.facts()}
        if request.teacher is not None:
            facts["teacher"] = request.teacher.name
        if "validation_accuracy" in trainer.history[-1]:
            facts["validation_accuracy"] = trainer.history[-1]["validation_accuracy"]
        bundle = write_results(
            trainer.result,
            request.out,
            name=request.name,
            classes=classes,
            preprocessing=preprocessing_of(recipe),
            recipe=recipe,
            facts=facts,
        )
        reporter.say(f"wrote {request.out / 'weights.pdparams'} and {bundle.path}")
        return bundle


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """How images become the input of the network that ``recipe`` trains."""
    return Preprocessing(resize_short=recipe.resize_short, crop_size=recipe.image_size)


def resolve_precision(precision: str, device: str) -> str:
    """Return what ``auto`` means on the device: float32 on a CPU, mixed precision on a GPU."""
    if precision != "auto":
        return precision
    if _device(device).type == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


@contextmanager
def open_place(device: str) -> Iterator[Place]:
    """Join the other processes where ``torchrun`` started several, and choose the device of this one.

    Raises:
        OptionError: there is no such device.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = _device(device)
    if world == 1:
        yield Place(chosen)
        return
    torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Place(chosen, rank, world)
    finally:
        torch.distributed.destroy_process_group()


def _device(name: str) -> torch.device:
    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise OptionError(f"device must be auto, cpu or cuda, not {name!r}.")
    if not available:
        raise OptionError("There is no CUDA device that PyTorch can use here; train with --device cpu.")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(index)
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda", index)


def _prepare_folder(request: Request, place: Place) -> None:
    out = request.out
    if place.rank == 0:
        if not request.resume and (out / FILE_NAME).exists():
            raise InputError(f"{out} holds a run already; continue it with --resume, or choose another --out.")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot make the run's folder {out}: {error.strerror or error}.") from error
    if place.world > 1:
        torch.distributed.barrier()


def _open_data(recipe: Recipe, request: Request, store: ImageStore, workers: int, place: Place) -> Data:
    training = _name_classes(open_dataset(request.data), request.labels)
    validation = None
    if request.validation is not None:
        validation = open_dataset(request.validation, classes=training.classes)
    elif request.validation_split:
        training, validation = take_validation(training, request.validation_split, recipe.seed)
    unlabelled = None
    if request.unlabelled is not None:
        if request.teacher is None:
            raise OptionError("Unlabelled images teach nothing without a --teacher; pass one, or leave them out.")
        unlabelled = open_dataset(request.unlabelled, labelled=False)
    total = sum(len(dataset.samples) for dataset in (training, validation, unlabelled) if dataset is not None)
    errors: list[ImageError] = []
    with progress(total, "checking images") as advance:
        training = _readable(training, store, workers, advance, errors)
        validation = _readable(validation, store, workers, advance, errors) if validation else None
        unlabelled = _readable(unlabelled, store, workers, advance, errors) if unlabelled else None
    _report_unreadable(errors, request, place)
    extra = unlabelled.samples if unlabelled else ()
    return Data(ImageDataset(training.samples + extra, training.classes), validation, len(extra), len(errors))


def _name_classes(dataset: ImageDataset, labels: Path | None) -> ImageDataset:
    if labels is None:
        return dataset
    names = tuple(label.label for label in read_labels(labels, len(dataset.classes)))
    return ImageDataset(dataset.samples, names)


def _readable(
    dataset: ImageDataset, store: ImageStore, workers: int, advance: Any, errors: list[ImageError]
) -> ImageDataset:
    """Return the dataset without its unreadable images, which are added to ``errors``."""
    found = find_unreadable(store, dataset, workers, advance)
    errors += found
    names = {error.source for error in found}
    return ImageDataset(tuple(sample for sample in dataset.samples if sample.name not in names), dataset.classes)


def _report_unreadable(errors: Sequence[ImageError], request: Request, place: Place) -> None:
    if not errors:
        return
    listed = request.out / UNREADABLE_FILE
    if place.rank == 0:
        write_atomically(listed, "".join(f"{error}\n" for error in errors).encode())
    if not request.skip_unreadable:
        shown = "; ".join(map(str, errors[:_LISTED])) + (" ..." if len(errors) > _LISTED else "")
        raise InputError(
            f"{len(errors)} images cannot be read: {shown}. All are listed in {listed}; "
            "repair or remove them, or leave them out with --skip-unreadable."
        )


def _open_teacher(recipe: Recipe, request: Request, classes: Sequence[str], place: Place) -> Teacher | None:
    if request.teacher is None:
        return None
    return load_teacher(request.teacher, classes, preprocessing_of(recipe), place.device)


def _words(key: str) -> str:
    return key.replace("_", " ")

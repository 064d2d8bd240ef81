"""One training run, from the data to the weights and the bundle."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from exporters.torch_network import GhostNet, save_official
from exporters.training.checkpoint import CHECKPOINT_FILE, SignalListener, remove_partial_checkpoints
from exporters.training.data import DataSources, TrainingData, open_data
from exporters.training.distillation import AnyTeacher
from exporters.training.distributed import Process, join_processes
from exporters.training.pretrained import StartingPoint, load_teacher, open_start
from exporters.training.recipe import KEPT_HEAD_RATE, NEW_HEAD_RATE, Recipe
from exporters.training.reporting import (
    BUNDLE_FOLDER,
    LAST_FILE,
    RUN_FILE,
    WEIGHTS_FILE,
    Reporter,
    conclude,
    training_section,
)
from exporters.training.teacher import DescribedTeacher, ask_teacher
from exporters.training.trainer import Surroundings, Trainer
from ghostzoo._utils.files import write_atomically
from ghostzoo._utils.hardware import usable_cpus
from ghostzoo.bundle.edit import check_target
from ghostzoo.bundle.folder import Bundle
from ghostzoo.bundle.golden import Golden, synthetic_images
from ghostzoo.bundle.manifest import check_model_name
from ghostzoo.cli.bars import progress
from ghostzoo.converter import Provenance, write_model_bundle
from ghostzoo.errors import InputError, OptionError
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess
from ghostzoo.labels import ClassLabel
from ghostzoo.network.families import FAMILIES
from ghostzoo.weights.params import read_weights, weights_suffix

_FOR_INITIAL_WEIGHTS = ("reset_gates", "head_epochs", "keep_statistics", "new_head")
_NEARLY_A_GUESS = 1.5
_GOLDEN_IMAGES = 4
TEACHER_FOLDER = "teacher"


@dataclass(frozen=True)
class RunOptions:
    """Everything about a run that is not its recipe: where things are, and what resources to use."""

    sources: DataSources
    out: Path
    name: str
    """The bundle's."""
    command: str
    """The command line, for the model card."""
    init: Path | None = None
    """Official weights to start from."""
    teacher: Path | None = None
    """Bundle, weights, or description of an ONNX model to distil from."""
    teacher_cache: Path | None = None
    """Folder for a described teacher's outputs; ``None``: one in ``out``."""
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    cache_bytes: int = 2**30
    checkpoint_minutes: float = 10.0
    until: int | None = None
    """Stop after this epoch of the schedule and write the weights."""
    resume: bool = False
    quiet: bool = False


def train_model(recipe: Recipe, options: RunOptions) -> Bundle | None:
    """Train, and write ``weights.pdparams`` (of timm's families ``weights.safetensors``) and ``bundle`` to its folder.

    Returns:
        The bundle; ``None`` in all processes but the main one.

    Raises:
        TrainingStoppedError: a signal ended the run early; it can be resumed.
        GhostZooError: data, options or files cannot be used; the last checkpoint is kept.
    """
    _check_options(recipe, options)
    with join_processes(options.device) as process:
        try:
            _prepare_folder(options, process)
            return _train(recipe, options, process)
        except OSError as error:
            raise InputError(
                f"{error.filename or options.out} cannot be used: {error.strerror or error}. What was written so far "
                "is intact; fix that, and continue with --resume if there is a checkpoint."
            ) from error


def _check_options(recipe: Recipe, options: RunOptions) -> None:
    check_model_name(options.name)
    smallest = recipe.architecture(1).smallest_image
    if min(recipe.image_size, *(size for size, _ in recipe.grow), recipe.image_size) < smallest:
        raise OptionError(f"{recipe.architecture(1).title} needs images of at least {smallest} pixels a side.")
    if options.init is None:
        for name in _FOR_INITIAL_WEIGHTS:
            if getattr(recipe, name):
                raise OptionError(f"{name.replace('_', '-')} is for initial weights; give these with --init.")
    if recipe.learning_rate is None and (recipe.optimizer == "adamw") != (options.init is not None):
        optimizer, other = ("AdamW", "SGD") if recipe.optimizer == "adamw" else ("SGD", "AdamW")
        start = "from random weights" if options.init is None else "from initial weights"
        raise OptionError(
            f"{optimizer} {start} needs an explicit --learning-rate, such as 0.002; the default is for {other}."
        )
    if options.sources.validation is not None and options.sources.validation_split:
        raise OptionError("Give --val or --val-split, not both: each says which images to validate on.")
    distillation = (recipe.distill_weight, recipe.distill_temperature, recipe.feature_weight)
    if options.teacher is None and distillation != (1.0, 1.0, 0.0):
        raise OptionError(
            "distill-weight, distill-temperature and feature-weight are for a --teacher; pass one, or leave them out."
        )
    if recipe.feature_weight and not (options.teacher and _is_described(options.teacher)):
        raise OptionError(
            f"feature-weight needs a teacher with a feature; {options.teacher} has none. Describe one in a .json file."
        )
    if options.until is not None and not 1 <= options.until <= recipe.epochs:
        raise OptionError(f"until must be from 1 to the {recipe.epochs} epochs of the schedule, not {options.until}.")
    if options.sources.unlabelled is not None and options.teacher is None:
        raise OptionError("Unlabelled images are of no use without a --teacher; pass one, or leave them out.")


def _prepare_folder(options: RunOptions, process: Process) -> None:
    """Make the run's folder, and find out now, not after hours, whether it can be written to."""
    out = options.out
    if process.is_main:
        if not options.resume and (out / CHECKPOINT_FILE).exists():
            raise InputError(f"{out} holds a run already; continue it with --resume, or choose another --out.")
        if options.resume and not (out / CHECKPOINT_FILE).exists():
            raise InputError(f"{out} holds no {CHECKPOINT_FILE} to resume from; start without --resume.")
        check_target(out / BUNDLE_FOLDER, overwrite=True)
        out.mkdir(parents=True, exist_ok=True)
        remove_partial_checkpoints(out)
    process.barrier()


def _train(recipe: Recipe, options: RunOptions, process: Process) -> Bundle | None:
    threads = options.threads or max(1, usable_cpus() // process.world_size)
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)  # images are prepared in parallel instead
    workers = options.workers or threads
    quiet = options.quiet or not process.is_main
    reporter = Reporter(options.out, options.until or recipe.epochs, quiet=quiet, writes=process.is_main)
    family = FAMILIES[recipe.family]
    init = None if options.init is None else read_weights(options.init, width=recipe.width, family=family)
    data = open_data(
        options.sources,
        options.out,
        seed=recipe.seed,
        cache_bytes=options.cache_bytes,
        workers=workers,
        process=process,
        quiet=quiet,
    )
    reporter.log(", ".join(f"{count} {what.replace('_', ' ')}" for what, count in data.facts().items()))
    classes = data.training.classes
    start = open_start(recipe, classes, options.init, init)
    if start.kept_head is not None:
        reporter.log(f"starting from {start.description}")
        if recipe.learning_rate is None:
            recipe = replace(recipe, learning_rate=KEPT_HEAD_RATE if start.kept_head else NEW_HEAD_RATE)
    teacher: AnyTeacher | None = None
    if options.teacher is not None:
        if _is_described(options.teacher):
            needs_feature = recipe.feature_weight > 0
            teacher = _ask(options.teacher, options, data, process, threads=threads, needs_feature=needs_feature)
            reporter.log(f"the teacher is right on {teacher.accuracy(data.training):.1%} of the labelled images")
        else:
            teacher = load_teacher(options.teacher, classes, recipe.preprocessing, process.device, threads)
    listener = SignalListener()
    trainer = Trainer(
        recipe,
        start,
        data,
        Surroundings(
            options.out,
            reporter,
            process,
            workers=workers,
            teacher=teacher,
            listener=listener,
            checkpoint_minutes=options.checkpoint_minutes,
        ),
    )
    if options.resume:
        trainer.resume(options.until)
        reporter.log(f"resumed after {trainer.epoch} epochs and {trainer.step} steps")
    else:
        _begin(trainer, start, reporter)
    if process.is_main:
        content = {"command": options.command, "recipe": recipe.to_dict()}
        write_atomically(options.out / RUN_FILE, (json.dumps(content, indent=2) + "\n").encode())
    try:
        with listener.listen():
            trainer.run(options.until)
    finally:
        reporter.close()
    if not process.is_main:
        return None
    reporter.finish(trainer.history)
    bundle = _write_results(trainer, options, _facts(trainer, options, data, start, teacher))
    if data.validation is not None:
        for line in conclude(trainer.history, trainer.best_epoch, recipe.head_epochs, len(data.validation.samples)):
            reporter.log(line)
    reporter.log(f"wrote {options.out / bundle.manifest.weights['file_name']} and {bundle.path}")
    return bundle


def _is_described(teacher: Path) -> bool:
    return teacher.suffix.lower() == ".json"


def _ask(
    path: Path, options: RunOptions, data: TrainingData, process: Process, *, threads: int, needs_feature: bool
) -> DescribedTeacher:
    """Run a described teacher on the training images: the main process does it, the others read what it kept."""
    cache = options.teacher_cache or options.out / TEACHER_FOLDER

    def ask(advance: Callable[[], None]) -> DescribedTeacher:
        return ask_teacher(
            path, data.training, data.images, cache, threads=threads, needs_feature=needs_feature, advance=advance
        )

    if not process.is_main:
        process.barrier()
        return ask(lambda: None)
    with progress(0 if options.quiet else len(data.training.samples), "asking the teacher") as advance:
        teacher = ask(advance)
    process.barrier()
    return teacher


def _begin(trainer: Trainer, start: StartingPoint, reporter: Reporter) -> None:
    """Prepare and measure the initial weights of a new run."""
    if trainer.recipe.reset_gates:
        trainer.reset_gates()
    if start.kept_head is None:
        return
    if not trainer.measure_start():
        reporter.log(
            "Without validation images nothing is measured, and the last epoch is the result; see --val-split."
        )
        return
    accuracy = trainer.history[0]["validation_accuracy"]
    if start.kept_head and accuracy <= _NEARLY_A_GUESS / len(trainer.classes):
        reporter.warn(
            f"The initial weights have a head for these classes, but are right on only {accuracy:.1%} of the images, "
            "about as often as a guess. If their classes differ, or come in another order, start again with --new-head."
        )


def _facts(
    trainer: Trainer, options: RunOptions, data: TrainingData, start: StartingPoint, teacher: AnyTeacher | None
) -> dict[str, Any]:
    """What manifest and model card say about the run, in their order. Paths are reduced to their last part."""
    sources = options.sources
    facts: dict[str, Any] = {"training_data": sources.data.resolve().name, **data.facts()}
    facts["starting_point"] = start.description
    if teacher is not None:
        facts["teacher"] = teacher.name
    if trainer.process.world_size > 1:
        facts["processes"] = trainer.process.world_size
    metrics = next(row for row in trainer.history if row["epoch"] == trainer.best_epoch)
    if data.validation is not None:
        facts["epoch"] = f"{trainer.best_epoch} of {trainer.epoch}, the best on the validation data"
    facts |= {name: metrics[name] for name in ("train_loss", "train_accuracy") if name in metrics}
    if data.validation is not None:
        held_out = "a split of the training data"
        facts["validation_data"] = sources.validation.resolve().name if sources.validation else held_out
        facts |= {name: metrics[name] for name in ("validation_loss", "validation_accuracy")}
    return facts


def _write_results(trainer: Trainer, options: RunOptions, facts: Mapping[str, Any]) -> Bundle:
    """Write the official weights and the bundle.

    The golden vectors are the trained network's own outputs, so the bundle is written only if its graph, run by ONNX
    Runtime, agrees with that network.

    Raises:
        GhostZooError: the bundle cannot be written, or its graph disagrees with the network.
    """
    result = trainer.result()
    suffix = weights_suffix(result.architecture)
    if trainer.history[-1].get("validation_accuracy") is not None:
        save_official(trainer.last, (options.out / LAST_FILE).with_suffix(suffix))
    return write_trained_bundle(
        result,
        options.out,
        name=options.name,
        classes=trainer.classes,
        preprocessing=trainer.recipe.preprocessing_at(trainer.epoch - 1),
        facts=facts,
        told=(trainer.recipe.to_dict(), options.command),
    )


def write_trained_bundle(
    network: GhostNet,
    out: Path,
    *,
    name: str,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    facts: Mapping[str, Any],
    told: tuple[Mapping[str, Any], str],
) -> Bundle:
    """Write a trained network's official weights, and its bundle.

    Args:
        network: the network.
        out: the run's folder.
        name: the bundle's.
        classes: their names.
        preprocessing: how the network sees images.
        facts: for the manifest and the model card.
        told: the recipe and the command line, for the card.

    Raises:
        GhostZooError: the bundle cannot be written, or its graph disagrees with the network.
    """
    weights_file = (out / WEIGHTS_FILE).with_suffix(weights_suffix(network.architecture))
    save_official(network, weights_file)
    return write_model_bundle(
        read_weights(weights_file),
        out / BUNDLE_FOLDER,
        model_name=name,
        labels=[ClassLabel(label) for label in classes],
        preprocessing=preprocessing,
        provenance=Provenance(
            golden=_golden(network, preprocessing),
            validation={**facts, "golden_source": "the trained PyTorch network in float64 on synthetic pictures"},
            tools={"torch": torch.__version__},
            card_notes=training_section(told),
        ),
        overwrite=True,
    )


@torch.inference_mode()
def _golden(network: GhostNet, preprocessing: Preprocessing) -> Golden:
    """Compute golden vectors in float64, so that any difference comes from the graph."""
    network = copy.deepcopy(network).to("cpu", torch.float64).eval()
    images = synthetic_images(_GOLDEN_IMAGES, preprocessing.resize_short)
    pixel_values = np.stack([preprocess(image, preprocessing) for image in images])
    x = torch.from_numpy(pixel_values).double()
    return Golden(pixel_values, network(x).float().numpy(), network.embed(x).float().numpy())

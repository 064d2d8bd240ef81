"""One training run, from the data on disk to weights and a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch

from exporters.training.checkpoints import FILE_NAME, remove_leftovers
from exporters.training.data import Data, DataSources, open_data
from exporters.training.finish import write_results
from exporters.training.loading import ImageStore
from exporters.training.loop import Trainer
from exporters.training.notes import BUNDLE_FOLDER, RUN_FILE, WEIGHTS_FILE
from exporters.training.place import Place, open_place
from exporters.training.recipe import Recipe
from exporters.training.reporting import Reporter
from exporters.training.starting import Start, start_network
from exporters.training.stopping import StopRequest
from exporters.training.teachers import Teacher, load_teacher
from ghostzoo._utils.files import write_atomically
from ghostzoo._utils.hardware import usable_cpus
from ghostzoo.bundle.folder import Bundle, check_target
from ghostzoo.bundle.manifest import check_model_name
from ghostzoo.errors import InputError, OptionError
from ghostzoo.weights.params import read_weights


@dataclass(frozen=True)
class Request:
    """Everything about a run that is not its recipe: where things are, and what the machine may be used for."""

    sources: DataSources
    out: Path
    name: str
    """Of the bundle."""
    command: str
    """What a user types for this run; for the model card."""
    init: Path | None = None
    """Official weights to start from."""
    teacher: Path | None = None
    """Bundle or weights to distil from."""
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    cache_bytes: int = 2**30
    checkpoint_minutes: float = 10.0
    until: int | None = None
    """End the schedule after this many of its epochs, and write the weights of then."""
    resume: bool = False
    quiet: bool = False


def train_model(recipe: Recipe, request: Request) -> Bundle | None:
    """Train, and write ``weights.pdparams`` and ``bundle`` to the run's folder.

    Returns:
        The bundle; ``None`` in all processes but the first.

    Raises:
        TrainingStoppedError: a signal ended the run early; it can be resumed.
        GhostZooError: data, options or files cannot be used; the last checkpoint is kept.
    """
    check_model_name(request.name)
    if recipe.reset_gates and request.init is None:
        raise OptionError("reset-gates is for the gates of starting weights; give these with --init.")
    if recipe.freeze_backbone and request.init is None:
        raise OptionError("freeze-backbone trains the head of given weights alone; give these with --init.")
    if request.sources.validation is not None and request.sources.validation_split:
        raise OptionError("Give --val or --val-split, not both: each says which images to measure on.")
    if request.teacher is None and (recipe.distill_weight, recipe.distill_temperature) != (1.0, 1.0):
        raise OptionError("distill-weight and distill-temperature are for a --teacher; pass one, or leave them out.")
    if request.until is not None and not 1 <= request.until <= recipe.epochs:
        raise OptionError(f"until must be from 1 to the {recipe.epochs} epochs of the schedule, not {request.until}.")
    if request.sources.unlabelled is not None and request.teacher is None:
        raise OptionError("Unlabelled images teach nothing without a --teacher; pass one, or leave them out.")
    with open_place(request.device) as place:
        try:
            _prepare_folder(request, place)
            return _train(recipe, request, place)
        except OSError as error:
            raise InputError(
                f"{error.filename or request.out} cannot be used: {error.strerror or error}. What was written before "
                "is whole; mend that, and continue with --resume where there is a checkpoint."
            ) from error


def _train(recipe: Recipe, request: Request, place: Place) -> Bundle | None:
    threads = request.threads or max(1, usable_cpus() // place.world)
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)  # images are prepared side by side instead
    workers = request.workers or threads
    quiet = request.quiet or not place.is_first
    reporter = Reporter(request.out, request.until or recipe.epochs, quiet=quiet, writes=place.is_first)
    store = ImageStore(request.cache_bytes)
    init = None if request.init is None else read_weights(request.init, width=recipe.width)
    data = open_data(
        request.sources, request.out, seed=recipe.seed, store=store, workers=workers, place=place, quiet=quiet
    )
    reporter.say(", ".join(f"{count} {what.replace('_', ' ')}" for what, count in data.facts().items()))
    start = start_network(recipe, len(data.training.classes), init)
    teacher = None
    if request.teacher is not None:
        teacher = load_teacher(request.teacher, data.training.classes, recipe.preprocessing, place.device, threads)
    stop = StopRequest()
    trainer = Trainer(
        recipe,
        start.network,
        data.training,
        data.validation,
        identity=_identity(data, start, teacher),
        out=request.out,
        store=store,
        reporter=reporter,
        place=place,
        workers=workers,
        teacher=teacher,
        stop=stop,
        checkpoint_minutes=request.checkpoint_minutes,
    )
    if request.resume:
        trainer.resume(request.until)
        reporter.say(f"resumed after {trainer.epoch} epochs and {trainer.step} steps")
    elif recipe.reset_gates:
        trainer.reset_gates()
    if place.is_first:
        content = {"command": request.command, "recipe": recipe.to_dict()}
        write_atomically(request.out / RUN_FILE, (json.dumps(content, indent=2) + "\n").encode())
    try:
        with stop.listen():
            trainer.run(request.until)
    finally:
        reporter.close()
    if not place.is_first:
        return None
    reporter.finish(trainer.history)
    facts = _facts(request, data, start, teacher, place, trainer.history[-1])
    bundle = write_results(
        trainer.result,
        request.out,
        request.name,
        data.training.classes,
        recipe,
        recipe.preprocessing_at(trainer.epoch - 1),
        request.command,
        facts,
    )
    reporter.say(f"wrote {request.out / WEIGHTS_FILE} and {bundle.path}")
    return bundle


def _prepare_folder(request: Request, place: Place) -> None:
    """Make the run's folder and find out now, not after hours, whether it can be written to."""
    out = request.out
    if place.is_first:
        if not request.resume and (out / FILE_NAME).exists():
            raise InputError(f"{out} holds a run already; continue it with --resume, or choose another --out.")
        if request.resume and not (out / FILE_NAME).exists():
            raise InputError(f"{out} holds no {FILE_NAME} to resume from; start without --resume.")
        check_target(out / BUNDLE_FOLDER, overwrite=True)
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
    place.wait()


def _identity(data: Data, start: Start, teacher: Teacher | None) -> dict[str, str]:
    return {
        "training images": data.training.fingerprint(),
        "validation images": data.validation.fingerprint() if data.validation is not None else "",
        "starting weights": start.sha256,
        "teacher's weights": teacher.sha256 if teacher else "",
    }


def _facts(
    request: Request, data: Data, start: Start, teacher: Teacher | None, place: Place, last: Mapping[str, float]
) -> dict[str, Any]:
    """What manifest and card say of the run, in their order. Paths are told by their last part alone."""
    sources = request.sources
    facts: dict[str, Any] = {"training_data": sources.data.resolve().name, **data.facts()}
    facts["starting_point"] = start.description
    if teacher is not None:
        facts["teacher"] = teacher.name
    if place.world > 1:
        facts["processes"] = place.world
    facts |= {name: last[name] for name in ("train_loss", "train_accuracy")}
    if data.validation is not None:
        measured_on = sources.validation.resolve().name if sources.validation else "a split of the training data"
        facts["validation_data"] = measured_on
        facts |= {name: last[name] for name in ("validation_loss", "validation_accuracy")}
    return facts

"""One run of ``exporters distil``: from files to weights and a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.efficientnet_lite import read_state
from exporters.on_device.distil import Distillation, Pictures, Plan
from exporters.training.data import DataSources, ImageCache, split_sources
from exporters.training.pretrained import open_start
from exporters.training.recipe import Recipe
from exporters.training.reporting import RUN_FILE
from exporters.training.run import write_trained_bundle
from ghostzoo._utils.files import write_atomically
from ghostzoo._utils.hardware import usable_cpus
from ghostzoo.bundle.folder import Bundle
from ghostzoo.bundle.manifest import check_model_name
from ghostzoo.errors import InputError, OptionError
from ghostzoo.evaluation.datasets import ImageDataset
from ghostzoo.weights.params import read_weights

_CACHE_BYTES = 2**33
_SHORT_SIDES = (1.0, 1.04, 1.08, 1.145, 1.2)
"""Sides to resize to, as multiples of the crop, of which the report gives the held-out accuracy."""


@dataclass(frozen=True)
class DistilOptions:
    """Everything about a run that is not its plan."""

    teacher: Path
    data: Path
    out: Path
    name: str
    """The bundle's."""
    command: str
    """The command line, for the model card."""
    val_split: float
    init: Path | None
    width: float
    record: bool
    device: str


def run(plan: Plan, options: DistilOptions, log: Callable[[str], None]) -> Bundle:
    """Train, and write ``weights.pdparams``, ``run.json`` and ``bundle``.

    Raises:
        InputError: the images differ in size, or the loss is no longer finite.
        OptionError: there is no such device.
        GhostZooError: other input cannot be used.
    """
    check_model_name(options.name)
    device = _device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    (labelled,), held_out, _ = split_sources(DataSources(options.data, validation_split=options.val_split), plan.seed)
    if held_out is None:
        raise OptionError("Without held-out images nothing can be measured; give a --val-split.")
    training, validation = (_load(dataset, device) for dataset in (labelled, held_out))
    log(f"{len(labelled.classes)} classes, {len(labelled.samples)} images to learn, {len(held_out.samples)} held out")
    torch.set_float32_matmul_precision("high")
    distillation = Distillation(
        plan, training, validation, options.out, log, record=options.record and device.type == "cuda"
    )
    init = None if options.init is None else read_weights(options.init)
    width = options.width if init is None else init.architecture.width
    recipe = Recipe(width=width, dropout=0.0, image_size=plan.image_size, resize_short=plan.resize_short)
    start = open_start(recipe, labelled.classes, options.init, init)
    content = {"command": options.command, "recipe": plan.to_dict()}
    write_atomically(options.out / RUN_FILE, (json.dumps(content, indent=2) + "\n").encode())
    teacher = distillation.tune_teacher(read_state(options.teacher))
    torch.save(
        {name: torch.from_numpy(value).half() for name, value in teacher.arrays().items()}, options.out / "teacher.pth"
    )
    network = distillation.teach(start.network, teacher)
    distillation.calibrate(network)
    for share in _SHORT_SIDES:
        short = round(plan.image_size * share)
        log(f"right on {distillation.measure(network, short):.2%} of the held-out images, if resized to {short}")
    facts: dict[str, Any] = {
        "training_data": options.data.resolve().name,
        "classes": len(labelled.classes),
        "training_images": len(labelled.samples),
        "validation_images": len(held_out.samples),
        "starting_point": start.description,
        "teacher": f"{options.teacher.name}, tuned to the same images",
        **distillation.facts,
        "validation_data": "a split of the training data",
    }
    bundle = write_trained_bundle(
        network,
        options.out,
        name=options.name,
        classes=labelled.classes,
        preprocessing=plan.preprocessing,
        facts=facts,
        told=(plan.to_dict(), options.command),
    )
    log(f"wrote {bundle.path}")
    return bundle


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise OptionError("PyTorch finds no CUDA device; leave --device out, or install its CUDA build.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _load(dataset: ImageDataset, device: torch.device) -> Pictures:
    """Decode all images, and put them on the device."""
    images = ImageCache(_CACHE_BYTES)
    with ThreadPoolExecutor(usable_cpus()) as threads:
        arrays = list(threads.map(images.read, dataset.samples))
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise InputError(f"The images differ in size ({len(shapes)} sizes); 'exporters train' takes such.")
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([sample.label for sample in dataset.samples])
    return Pictures(pixels.to(device), labels.to(device))

"""Trained networks: the weights that a run starts from, and the teacher that it distils (as in SSLD)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from exporters.torch_network import GhostNet, load_official, official_arrays
from exporters.training.recipe import Recipe
from exporters.training.reporting import BUNDLE_FOLDER
from ghostzoo.bundle.folder import MODEL_FILES, Bundle
from ghostzoo.catalog import DEFAULT_MODEL
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.onnxruntime import OnnxRuntimeEngine
from ghostzoo.errors import OptionError
from ghostzoo.fetch.resolver import BUNDLED_FOLDER, fetch
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.weights.params import Weights, read_weights

Rows = tuple[int, ...]
"""For each class of the data, which class of the initial weights' head it is."""


def find_bundle(path: Path, weights: Weights) -> Bundle | None:
    """Return the bundle of these weights, which tells their classes and image size, or ``None`` where none is known.

    Looked at are the run's folder that ``path`` is in, and the bundle that comes with the package.
    """
    for folder in (path.parent / BUNDLE_FOLDER, BUNDLED_FOLDER / DEFAULT_MODEL):
        if folder.is_dir():
            bundle = Bundle.open(folder)
            if bundle.manifest.weights["sha256"] == weights.sha256:
                return bundle
    return None


def head_rows(weights: Weights, bundle: Bundle | None, classes: Sequence[str]) -> Rows | None:
    """Return which parts of the head fit ``classes``; ``None`` if there are classes that it does not know.

    Weights without a bundle do not tell their classes: if they have as many as the data, they are taken to be the same.
    """
    if bundle is None:
        same = weights.architecture.num_classes == len(classes)
        return tuple(range(len(classes))) if same else None
    names = [label.label for label in bundle.labels]
    return tuple(map(names.index, classes)) if all(names.count(name) == 1 for name in classes) else None


@dataclass(frozen=True)
class StartingPoint:
    """What a run starts from."""

    network: GhostNet
    description: str = "random weights"
    sha256: str = ""
    """Of the initial weights."""
    kept_head: bool | None = None
    """Whether the head is that of the initial weights; ``None``: all weights are random."""


def open_start(recipe: Recipe, classes: Sequence[str], path: Path | None, init: Weights | None) -> StartingPoint:
    """Make the network that a new run starts from.

    Args:
        recipe: width, dropout, seed, and whether the head is to be a new one.
        classes: the data's.
        path: the file of the initial weights, if there are any.
        init: these weights.
    """
    if path is None or init is None:
        return StartingPoint(initial_network(recipe, len(classes), None))
    rows = None if recipe.new_head else head_rows(init, find_bundle(path, init), classes)
    known = init.architecture.num_classes
    if rows is None:
        head = f"a new head for {len(classes)} classes"
    else:
        head = "its head" if known == len(classes) else f"{len(classes)} of the {known} classes of its head"
    network = initial_network(recipe, len(classes), init, rows)
    return StartingPoint(network, f"{init.file_name}, with {head}", init.sha256, rows is not None)


def initial_network(recipe: Recipe, num_classes: int, init: Weights | None, rows: Rows | None = None) -> GhostNet:
    """Make the network of a new run, from random weights or from ``init``.

    Args:
        recipe: family, width, dropout and seed.
        num_classes: number of classes in the data.
        init: weights of that family and width.
        rows: the parts of their head to keep; ``None``: the head is re-initialised.
    """
    torch.manual_seed(recipe.seed)
    fused = init is not None and init.architecture.fused
    network = GhostNet(recipe.architecture(num_classes, fused=fused), dropout=recipe.dropout)
    if init is not None:
        branch = network.architecture.classifier.branches[0]
        head = official_arrays(network)
        if rows is not None:
            head[branch.weight] = init.arrays[branch.weight].take(rows, axis=1 if branch.transposed else 0)
            head[branch.bias] = init.arrays[branch.bias].take(rows)
        load_official(network, {**init.arrays, **{key: head[key] for key in (branch.weight, branch.bias)}})
    return network


@dataclass(frozen=True)
class Teacher:
    """A network to learn from."""

    name: str
    sha256: str
    """Of its weights or graph."""
    logits: Callable[[Tensor], Tensor]
    """Pixel values (N, 3, H, W) as the student sees them -> logits (N, classes) on the same device, no gradient."""


def load_teacher(
    path: Path, classes: Sequence[str], preprocessing: Preprocessing, device: torch.device, threads: int
) -> Teacher:
    """Load a bundle (run by ONNX Runtime) or a ``.pdparams`` file (run by PyTorch) as a teacher.

    Args:
        path: a bundle's name or folder, or the weights.
        classes: the student's classes; a bundle's must be the same in the same order.
        preprocessing: how the student's pixel values are normalised.
        device: the student's.
        threads: CPU threads for a bundle.

    Raises:
        OptionError: teacher and student have different classes.
        GhostZooError: the teacher cannot be read.
    """
    if path.is_file():
        return _network_teacher(path, len(classes), device)
    return _bundle_teacher(path, list(classes), preprocessing, threads)


def _network_teacher(path: Path, num_classes: int, device: torch.device) -> Teacher:
    weights = read_weights(path)
    _check_count(path, weights.architecture.num_classes, num_classes)
    network = GhostNet(weights.architecture)
    load_official(network, weights.arrays)
    network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def logits(pixel_values: Tensor) -> Tensor:
        output: Tensor = network(pixel_values)
        return output

    return Teacher(weights.file_name, weights.sha256, logits)


def _bundle_teacher(path: Path, classes: list[str], ours: Preprocessing, threads: int) -> Teacher:
    bundle = fetch(str(path))
    _check_count(path, bundle.num_classes, len(classes))
    names = [label.label for label in bundle.labels]
    if names != classes:
        first = next(index for index, name in enumerate(classes) if names[index] != name)
        raise OptionError(
            f"The teacher {path} calls class {first} {names[first]!r}, the data {classes[first]!r}; "
            "teacher and data must have the same classes in the same order (--labels names those of a list file)."
        )
    engine = OnnxRuntimeEngine.load(bundle, EngineOptions(threads=threads))
    theirs = bundle.preprocessing

    def logits(pixel_values: Tensor) -> Tensor:
        x = pixel_values.detach().float().cpu()
        x = x * _column(ours.std) + _column(ours.mean)
        if x.shape[-1] != theirs.crop_size:
            x = F.interpolate(x, size=(theirs.crop_size, theirs.crop_size), mode="bilinear", align_corners=False)
        x = (x - _column(theirs.mean)) / _column(theirs.std)
        return torch.from_numpy(engine.run(np.ascontiguousarray(x.numpy()))).to(pixel_values.device)

    return Teacher(bundle.name, bundle.manifest.files[MODEL_FILES["fp32"]].sha256, logits)


def _column(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def _check_count(path: Path, theirs: int, ours: int) -> None:
    if theirs != ours:
        raise OptionError(f"The teacher {path} has {theirs} classes, the data have {ours}; they must be the same.")


def jensen_shannon_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Jensen-Shannon divergence of the softened probabilities, mean over the images, in nats.

    Args:
        student, teacher: logits (N, classes).
        temperature: divides the logits; the result is multiplied by its square, which keeps the scale of the gradient
            (Hinton et al., 2015).
    """
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    each = F.kl_div(log_mean, log_p, reduction="none", log_target=True) + F.kl_div(
        log_mean, log_q, reduction="none", log_target=True
    )
    return each.sum(dim=1).mean() * (temperature**2 / 2)

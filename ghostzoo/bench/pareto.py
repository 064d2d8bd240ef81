"""Accuracy against this machine's latency, for models that need not be here: a network's speed lies in its graph.

Each graph is written with random weights, so nothing is downloaded, and all take turns in ONNX Runtime.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._utils.plots import require_matplotlib
from .._utils.timing import time_in_turn
from ..catalog import CatalogModel
from ..engines.base import EngineOptions
from ..engines.onnxruntime import OnnxRuntimeEngine
from ..network.architecture import Architecture
from ..network.families import FAMILIES
from ..network.graph import build_graph

_SECONDS = 1.0
"""Time for the rounds of each network."""
_INCHES, _DPI = (9, 6), 120
_ROOM_FOR_NAMES = 1.2
_NEAR = (0.03, 0.5)
"""How near two points have their names apart: share of the largest latency, percent of top-1."""


def measure_latencies(
    records: Sequence[CatalogModel], on_step: Callable[[str], object] = lambda _: None
) -> dict[str, float]:
    """Return the milliseconds that each model's network takes for one image in one thread.

    It is the fastest of many calls: whatever else the machine does only adds to them.

    Args:
        records: models of the catalog; those with the same network have the same latency.
        on_step: told of each network before its graph is written.
    """
    calls: dict[tuple[Any, ...], Callable[[], object]] = {}
    with ExitStack() as opened:
        for record in records:
            if (key := _network(record)) in calls:
                continue
            on_step(record.name)
            engine = opened.enter_context(OnnxRuntimeEngine(_graph(record), EngineOptions(threads=1)))
            side = record.preprocessing.crop_size
            pixels = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
            calls[key] = partial(engine.run, pixels)
        durations = time_in_turn(calls, _SECONDS * len(calls))
    return {record.name: 1000 * min(durations[_network(record)]) for record in records}


def find_front(records: Sequence[CatalogModel], latencies: Mapping[str, float]) -> list[str]:
    """Names of the models that no other one beats in both latency and top-1, the fastest first."""
    front: list[str] = []
    best = 0.0
    for record in sorted(records, key=lambda each: (latencies[each.name], -each.figures.top1)):
        if record.figures.top1 > best:
            best = record.figures.top1
            front.append(record.name)
    return front


def draw(
    records: Sequence[CatalogModel], latencies: Mapping[str, float], front: Collection[str], machine: str
) -> bytes:
    """Draw one point a model, in its family's colour, and a line through the ``front``; a PNG.

    Raises:
        InputError: matplotlib is not installed.
    """
    figure = require_matplotlib().Figure(figsize=_INCHES, layout="constrained")
    axes = figure.subplots()
    for family in dict.fromkeys(record.family for record in records):
        points = [(latencies[each.name], 100 * each.figures.top1) for each in records if each.family == family]
        axes.plot(*zip(*points, strict=True), "o", label=FAMILIES[family].title)
    places = {each.name: (latencies[each.name], 100 * each.figures.top1) for each in records}
    axes.plot(*zip(*(places[name] for name in front), strict=True), "-", color="0.6", zorder=0)
    most = max(latencies.values())
    below: list[tuple[float, float]] = []
    for name, (x, y) in places.items():
        if name in front:
            down = 3
        else:  # below, so that the names of near neighbours do not meet
            down = -9 - 9 * sum(abs(x - other) < _NEAR[0] * most and abs(y - top1) < _NEAR[1] for other, top1 in below)
            below.append((x, y))
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(6, down), fontsize=7)
    axes.set(xlabel="latency of one image, one thread [ms]", ylabel="published top-1 on ImageNet-1k [%]")
    axes.set_xlim(0, _ROOM_FOR_NAMES * most)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.suptitle(machine, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _network(record: CatalogModel) -> tuple[Any, ...]:
    return record.family, record.width, record.num_classes, record.preprocessing.crop_size


def _graph(record: CatalogModel) -> bytes:
    architecture = Architecture.of(record.width, record.num_classes, FAMILIES[record.family], fused=True)
    return build_graph(
        _random_weights(architecture),
        architecture,
        model_name=record.name,
        weights_sha256="",
        image_size=record.preprocessing.crop_size,
    )


def _random_weights(architecture: Architecture) -> dict[str, NDArray[np.float32]]:
    """Weights that neither explode nor die out: batch-norms do nothing, convolutions keep the scale."""
    rng = np.random.default_rng(0)
    arrays = {key: np.zeros(shape, np.float32) for key, shape in architecture.state_shapes().items()}
    for layer in architecture.layers():
        scale = np.float32(np.prod(layer.shape[1:]) ** -0.5)
        for branch in layer.branches:
            if branch.weight:
                arrays[branch.weight] = rng.standard_normal(branch.stored, np.float32) * scale
            if branch.norm is not None:
                arrays[branch.norm.gamma] += 1
                arrays[branch.norm.variance] += 1
    return arrays

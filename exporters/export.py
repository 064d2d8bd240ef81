"""Paddle weights or an archive -> a bundle, proven equal to Paddle on real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.flops import ModelCounts, count_flops
from exporters.paddle_archive import ProgramRoute, archive_to_onnx, read_archive, weights_of_archive
from exporters.paddle_network import PaddleGhostNet, build_network, forward
from exporters.paddle_to_onnx import Route, export_with_paddle2onnx, onnx_route
from exporters.route_comparison import RouteComparison, compare_routes
from ghostzoo.bundle.edit import check_target
from ghostzoo.bundle.folder import Bundle
from ghostzoo.bundle.golden import Golden
from ghostzoo.bundle.manifest import check_model_name
from ghostzoo.catalog import CatalogModel, get_official_model
from ghostzoo.converter import Provenance, default_preprocessing, write_model_bundle
from ghostzoo.errors import OptionError, WeightsError
from ghostzoo.images.decode import describe, read_image
from ghostzoo.images.inputs import expand
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess
from ghostzoo.labels import resolve_labels
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.graph import build_graph
from ghostzoo.weights.params import Weights, read_weights

# The routes. Graphs are run by ONNX Runtime, an archive's program by Paddle Inference.
PADDLE = "Paddle forward"
PADDLE2ONNX = "paddle2onnx graph"
PROGRAM = "archive program"
OURS = "ghostzoo graph"

STEPS = 3
"""Steps that ``on_step`` is called for, besides one per image."""
_GOLDEN_IMAGES = 2
_BATCH_SIZE = 8
_LIBRARIES = ("paddlepaddle", "paddle2onnx", "onnxruntime")


@dataclass(frozen=True)
class Export:
    """A bundle that was written, with its comparison and counts."""

    bundle: Bundle
    comparison: RouteComparison
    counts: ModelCounts


@dataclass(frozen=True)
class _Subject:
    """Weights, and how the original framework computes logits from them."""

    weights: Weights
    network: PaddleGhostNet
    reference: str
    """The route that the others are compared with."""
    routes: Mapping[str, Route]
    facts: Callable[[], Mapping[str, Any]] = field(default=dict)
    """Further facts for the report, once all images have been run."""
    activation: str | None = None
    """What the archive's program ends in."""


def export_model(
    out: str | PathLike[str],
    images: Any,
    *,
    weights: str | PathLike[str] | None = None,
    archive: str | PathLike[str] | None = None,
    model: str | None = None,
    name: str | None = None,
    prefix: str | None = None,
    labels: str | PathLike[str] | Sequence[str] | None = None,
    multi_label: bool = False,
    overwrite: bool = False,
    on_step: Callable[[str], object] = lambda _: None,
) -> Export:
    """Turn Paddle's weights into a bundle after comparing all routes on real images.

    The reference is Paddle's forward pass for ``weights``, and the archive's own program in Paddle Inference for
    ``archive``. It is compared with paddle2onnx's graph and ghostzoo's graph in ONNX Runtime, and for an archive also
    with Paddle's forward pass on the weights that were found in it.

    Args:
        out, model, name, prefix, labels, multi_label, overwrite: as for ``ghostzoo.convert``. An archive whose program
            ends in a sigmoid is a multi-label model anyway.
        images: photographs, as a folder, a pattern or several; at least one.
        weights: a ``.pdparams`` file.
        archive: an official inference archive, instead of ``weights``.
        on_step: called at the start of each step: ``STEPS`` of them, and one per image.

    Raises:
        ParityError: the routes disagree; nothing was written.
        GhostZooError: an input cannot be used; nothing was written.
    """
    if model is None and name is None:
        raise OptionError("Say which catalog model this is, or give the new model a name.")
    if (weights is None) == (archive is None):
        raise OptionError("Pass either weights or an archive.")
    record = get_official_model(model) if model is not None else None
    model_name = name or (record.name if record else "")
    preprocessing = default_preprocessing(model, labels)
    check_model_name(model_name)
    check_target(Path(out), overwrite)
    sources = list(expand(images))

    on_step("converting with paddle2onnx")
    if archive is not None:
        subject = _from_archive(Path(archive), record)
    else:
        subject = _from_weights(Path(weights or ""), record, prefix, preprocessing.crop_size)
    if multi_label and subject.activation == "softmax":
        raise OptionError(f"The program of {archive} ends in a softmax: it is no multi-label model; leave that out.")
    multi_label = multi_label or subject.activation == "sigmoid"
    tensors = subject.weights
    classes = resolve_labels(labels, tensors.architecture.num_classes)

    on_step("building the graph")
    graph = build_graph(
        tensors.arrays,
        tensors.architecture,
        model_name=model_name,
        weights_sha256=tensors.sha256,
        image_size=preprocessing.crop_size,
    )
    counts = count_flops(graph, tensors.architecture)
    routes = {**subject.routes, OURS: onnx_route(graph)}
    pixel_values, logits = _run(routes, sources, preprocessing, on_step)
    comparison = compare_routes([describe(source) for source in sources], subject.reference, logits, model_name)
    golden = Golden(
        pixel_values, logits[subject.reference][: len(pixel_values)], forward(subject.network, pixel_values)[1]
    )

    on_step("writing the bundle")
    source_url = record.archive_url if record and archive is not None else None
    fits_record = record is not None and tensors.architecture.num_classes == record.num_classes
    bundle = write_model_bundle(
        tensors,
        out,
        model_name=model_name,
        labels=classes,
        preprocessing=preprocessing,
        multi_label=multi_label,
        provenance=Provenance(
            record if fits_record and name in (None, model) and labels is None and not multi_label else None,
            source_url=source_url,
            golden=golden,
            validation={
                "paddle_comparison": comparison.to_report(),
                "golden_source": f"{subject.reference} on the first {len(pixel_values)} images",
                **subject.facts(),
                "counts": counts.to_report(record.published if record and fits_record else None),
            },
            tools={library: version(library) for library in _LIBRARIES},
        ),
        overwrite=overwrite,
    )
    return Export(bundle, comparison, counts)


def _from_weights(path: Path, record: CatalogModel | None, prefix: str | None, image_size: int) -> _Subject:
    weights = read_weights(path, width=record.width if record else None, prefix=prefix)
    network = build_network(weights.arrays, weights.architecture)
    raw = export_with_paddle2onnx(network, image_size)
    return _Subject(weights, network, PADDLE, {PADDLE: _paddle_route(network), PADDLE2ONNX: onnx_route(raw)})


def _from_archive(path: Path, record: CatalogModel | None) -> _Subject:
    archive = read_archive(path)
    raw = archive_to_onnx(archive)
    weights = weights_of_archive(archive, raw)
    if record and Architecture.of(record.width, 1).blocks != Architecture.of(weights.architecture.width, 1).blocks:
        raise WeightsError(
            f"{path}: the weights are of width {weights.architecture.width:g}, those of {record.name} of "
            f"{record.width:g}; check the model name and the file."
        )
    network = build_network(weights.arrays, weights.architecture)
    program = ProgramRoute(archive)
    routes: dict[str, Route] = {PROGRAM: program, PADDLE: _paddle_route(network), PADDLE2ONNX: onnx_route(raw)}
    activation = program.activation

    def facts() -> Mapping[str, Any]:
        return {} if activation is None else {f"{activation}_difference": program.activation_difference}

    return _Subject(weights, network, PROGRAM, routes, facts, activation)


def _paddle_route(network: PaddleGhostNet) -> Route:
    return lambda pixel_values: forward(network, pixel_values)[0]


def _run(
    routes: Mapping[str, Route], sources: Sequence[Any], preprocessing: Preprocessing, on_step: Callable[[str], object]
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """Run all routes on all images, a batch at a time.

    Returns:
        The first few images, preprocessed, and the logits (N, classes) of each route.

    Raises:
        ImageError: an image cannot be read; none is skipped.
    """
    first: NDArray[np.float32] | None = None
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in routes}
    for start in range(0, len(sources), _BATCH_SIZE):
        tensors = []
        for source in sources[start : start + _BATCH_SIZE]:
            on_step(f"comparing on {Path(describe(source)).name}")
            tensors.append(preprocess(read_image(source), preprocessing))
        pixel_values = np.stack(tensors)
        first = pixel_values[:_GOLDEN_IMAGES] if first is None else first
        for name, route in routes.items():
            logits[name].append(route(pixel_values))
    return np.asarray(first), {name: np.concatenate(parts) for name, parts in logits.items()}

"""Weights or an archive -> a bundle that Paddle itself has confirmed on real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ghostzoo.bundle import Bundle, check_target
from ghostzoo.catalog import CatalogModel, Preprocessing, get_model
from ghostzoo.converter import write_model_bundle
from ghostzoo.errors import InputError, OptionError
from ghostzoo.golden import Golden
from ghostzoo.graph import build_graph
from ghostzoo.images import describe, read_image
from ghostzoo.labels import resolve_labels
from ghostzoo.params import Weights, read_weights
from ghostzoo.preprocess import preprocess
from ghostzoo.sources import expand

from . import archive as archives
from .compare import Comparison, compare_routes, log_probabilities, log_softmax
from .counts import Counts, count
from .paddle_network import build_network, forward
from .paddle_route import export_with_paddle2onnx, run_onnx

# The routes; the graphs are run by ONNX Runtime, the archive's program by Paddle Inference.
PADDLE = "Paddle forward"
PADDLE2ONNX = "paddle2onnx graph"
OURS = "ghostzoo graph"
PROGRAM = "archive program"
PROGRAM2ONNX = "archive by paddle2onnx"

_GOLDEN_IMAGES = 2
STEPS = 6
"""Steps that are told of for each bundle; one more for an archive."""
_LIBRARIES = ("paddlepaddle", "paddle2onnx", "onnxruntime")

Step = Callable[[str], object]
"""Called with the name of each step as it begins."""


@dataclass(frozen=True)
class Export:
    """A bundle that was written, and the figures that speak for it."""

    bundle: Bundle
    comparisons: tuple[Comparison, ...]
    counts: Counts


@dataclass(frozen=True)
class RealImages:
    """Photographs, preprocessed once for all routes."""

    names: tuple[str, ...]
    pixel_values: NDArray[np.float32]
    """(N, 3, crop, crop)"""


def read_images(folder: str | PathLike[str], preprocessing: Preprocessing) -> RealImages:
    """Read and preprocess all images of ``folder``.

    Raises:
        ImageError: one cannot be read; none is passed over.
        InputError: there are fewer than the golden vectors need.
    """
    sources = list(expand(folder))
    if len(sources) < _GOLDEN_IMAGES:
        raise InputError(f"{folder} holds {len(sources)} image(s); the comparison needs at least {_GOLDEN_IMAGES}.")
    tensors = [preprocess(read_image(source), preprocessing) for source in sources]
    return RealImages(tuple(describe(source) for source in sources), np.stack(tensors))


def export_weights(
    weights: str | PathLike[str],
    out: str | PathLike[str],
    images: str | PathLike[str],
    *,
    model: str | None = None,
    name: str | None = None,
    labels: str | PathLike[str] | None = None,
    overwrite: bool = False,
    on_step: Step = lambda _: None,
) -> Export:
    """Turn a ``.pdparams`` file into a bundle, after the three-way comparison on the images of a folder.

    Args:
        weights, out, model, name, labels, overwrite: as for ``ghostzoo.convert``.
        images: a folder of photographs.
        on_step: told of each step as it begins.

    Raises:
        ParityError: the routes disagree; nothing was written.
        GhostZooError: an input cannot be used; nothing was written.
    """
    record = _record(model, name)
    check_target(Path(out), overwrite)
    on_step("reading the weights")
    tensors = read_weights(weights, width=record.width if record else None)
    return _export(tensors, out, images, record, name, labels, overwrite, on_step, oracle=None)


def export_archive(
    archive: str | PathLike[str],
    out: str | PathLike[str],
    images: str | PathLike[str],
    *,
    model: str | None = None,
    name: str | None = None,
    labels: str | PathLike[str] | None = None,
    overwrite: bool = False,
    on_step: Step = lambda _: None,
) -> Export:
    """Turn an official inference archive into a bundle; its own program, run by Paddle Inference, is the oracle.

    Arguments and errors are those of ``export_weights``.
    """
    record = _record(model, name)
    check_target(Path(out), overwrite)
    on_step("reading the archive")
    content = archives.read_archive(Path(archive))
    program = archives.archive_to_onnx(content)
    tensors = archives.weights_of_archive(content, program)
    return _export(tensors, out, images, record, name, labels, overwrite, on_step, oracle=(content, program))


def _export(
    weights: Weights,
    out: str | PathLike[str],
    images: str | PathLike[str],
    record: CatalogModel | None,
    name: str | None,
    labels: str | PathLike[str] | None,
    overwrite: bool,
    on_step: Step,
    oracle: tuple[archives.Archive, bytes] | None,
) -> Export:
    model_name = name or (record.name if record else "")
    preprocessing = record.preprocessing if record else Preprocessing()
    names = resolve_labels(labels, weights.architecture.num_classes)
    on_step("reading the images")
    photos = read_images(images, preprocessing)
    on_step("running Paddle")
    network = build_network(weights.arrays, weights.architecture)
    logits, embedding = forward(network, photos.pixel_values)
    on_step("running paddle2onnx")
    raw = export_with_paddle2onnx(network, preprocessing.crop_size)
    on_step("comparing")
    graph = build_graph(
        weights.arrays,
        weights.architecture,
        model_name=model_name,
        weights_sha256=weights.sha256,
        image_size=preprocessing.crop_size,
    )
    ours = run_onnx(graph, photos.pixel_values)
    routes = {PADDLE: logits, PADDLE2ONNX: run_onnx(raw, photos.pixel_values), OURS: ours}
    comparisons = [compare_routes(photos.names, PADDLE, routes, model_name)]
    if oracle is not None:
        on_step("running the archive's program")
        comparisons.append(_compare_with_program(photos, *oracle, ours, model_name))
    counts = count(graph)
    on_step("writing the bundle")
    is_official = record is not None and model_name == record.name and labels is None
    bundle = write_model_bundle(
        weights,
        out,
        model_name=model_name,
        labels=names,
        preprocessing=preprocessing,
        official=record if is_official else None,
        golden=Golden(photos.pixel_values[:_GOLDEN_IMAGES], logits[:_GOLDEN_IMAGES], embedding[:_GOLDEN_IMAGES]),
        validation={
            "paddle_comparison": [comparison.to_report() for comparison in comparisons],
            "golden_source": PADDLE,
            "counts": counts.to_report(record.published if is_official and record else None),
        },
        tools={library: version(library) for library in _LIBRARIES},
        overwrite=overwrite,
    )
    return Export(bundle, tuple(comparisons), counts)


def _compare_with_program(
    photos: RealImages, archive: archives.Archive, program: bytes, ours: NDArray[np.float32], subject: str
) -> Comparison:
    """Hold our graph against the archive's own program, in log-probabilities where that ends in a softmax."""
    outputs = {
        PROGRAM: archives.run_archive(archive, photos.pixel_values),
        PROGRAM2ONNX: run_onnx(program, photos.pixel_values),
    }
    if archives.ends_in_softmax(program):
        outputs = {name: log_probabilities(output) for name, output in outputs.items()}
        ours = log_softmax(ours)
    return compare_routes(photos.names, PROGRAM, {**outputs, OURS: ours}, subject)


def _record(model: str | None, name: str | None) -> CatalogModel | None:
    if model is None and name is None:
        raise OptionError("Say which catalog model this is, or give the new model a name.")
    return get_model(model) if model is not None else None

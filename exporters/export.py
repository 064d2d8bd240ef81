"""Weights or an archive -> a bundle, proven equal to the original framework on real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

from exporters.flops import ModelCounts, count_flops
from exporters.route_comparison import RouteComparison, compare_on_images
from exporters.routes import onnx_route
from ghostzoo.bundle.edit import check_target
from ghostzoo.bundle.folder import Bundle
from ghostzoo.bundle.golden import Golden
from ghostzoo.bundle.manifest import check_model_name
from ghostzoo.catalog import get_official_model
from ghostzoo.converter import Provenance, default_preprocessing, write_model_bundle
from ghostzoo.errors import EngineUnavailableError, OptionError
from ghostzoo.images.inputs import expand
from ghostzoo.labels import find_timm_config, resolve_labels
from ghostzoo.network.families import PADDLE_GHOSTNET, Family
from ghostzoo.network.graph import build_graph
from ghostzoo.weights.params import read_weights

_FOR_PADDLE = (
    "PaddlePaddle and paddle2onnx; run \"pip install -e '.[export]'\" with Python 3.11 or 3.12, in an environment of "
    "its own"
)
_FOR_TIMM = "timm, PyTorch and torchvision; run 'nox -s timm', and this with .venv-timm/bin/python"
OURS = "ghostzoo graph"
"""The route beside those of the original, run by ONNX Runtime."""

STEPS = 3
"""Steps that ``on_step`` is called for, besides one per image."""


@dataclass(frozen=True)
class Export:
    """A bundle that was written, with its comparison and counts."""

    bundle: Bundle
    comparison: RouteComparison
    counts: ModelCounts


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
    """Turn weights into a bundle after comparing all routes on real images.

    The reference is the source's own forward pass for ``weights``, Paddle's or timm's in float64, and the archive's own
    program in Paddle Inference for ``archive``. It is compared with the graph of paddle2onnx or of PyTorch's exporter,
    and with ghostzoo's graph in ONNX Runtime, and for an archive also with Paddle's forward pass on the weights that
    were found in it.

    Args:
        out, model, name, prefix, labels, multi_label, overwrite: as for ``ghostzoo.convert``. An archive whose program
            ends in a sigmoid is a multi-label model anyway.
        images: photographs, as a folder, a pattern or several; at least one.
        weights: a ``.pdparams`` or ``.safetensors`` file.
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
    check_model_name(model_name)
    check_target(Path(out), overwrite)
    sources = list(expand(images))

    described = labels if labels is not None or weights is None else find_timm_config(weights)
    on_step("making the original's graph")
    if archive is not None:
        preprocessing = default_preprocessing(model, labels)
        subject = _oracle(PADDLE_GHOSTNET).from_archive(Path(archive), record)
    else:
        tensors = read_weights(weights or "", width=record.width if record else None, prefix=prefix)
        preprocessing = default_preprocessing(model, described, tensors.architecture.family)
        subject = _oracle(tensors.architecture.family).from_weights(tensors, preprocessing.crop_size)
    if multi_label and subject.activation == "softmax":
        raise OptionError(f"The program of {archive} ends in a softmax: it is not a multi-label model; leave that out.")
    multi_label = multi_label or subject.activation == "sigmoid"
    tensors = subject.weights
    classes = resolve_labels(described, tensors.architecture.num_classes)

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
    pixel_values, logits, comparison = compare_on_images(
        routes, sources, preprocessing, subject.reference, model_name, on_step
    )
    golden = Golden(pixel_values, logits[: len(pixel_values)], subject.embed(pixel_values))

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
                f"{subject.source}_comparison": comparison.to_report(),
                "golden_source": f"{subject.reference} on the first {len(pixel_values)} images",
                **subject.facts(),
                "counts": counts.to_report(record.published if record and fits_record else None),
            },
            tools={library: version(library) for library in subject.libraries},
        ),
        overwrite=overwrite,
    )
    return Export(bundle, comparison, counts)


def _oracle(family: Family) -> Any:
    """Return the module that runs the original of a family, which needs an environment of its own.

    Raises:
        EngineUnavailableError: the libraries for it are not installed.
    """
    try:
        if family == PADDLE_GHOSTNET:
            from exporters import paddle_oracle

            return paddle_oracle
        from exporters import timm_oracle
    except ImportError as error:
        needed = _FOR_PADDLE if family == PADDLE_GHOSTNET else _FOR_TIMM
        raise EngineUnavailableError(f"Exporting {family.title} needs {needed} ({error}).") from error
    return timm_oracle

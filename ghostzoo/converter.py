"""Weights -> bundle, without Paddle or PyTorch: ``params`` reads them, ``graph`` writes the ONNX graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ._utils.urls import as_path
from ._version import __version__
from .bundle.card import write_card
from .bundle.edit import check_target, write_bundle
from .bundle.export_config import read_exported_preprocessing
from .bundle.folder import CARD_FILE, GOLDEN_FILE, MODEL_FILES, Bundle
from .bundle.golden import Golden, synthetic_images
from .bundle.hub_configs import CONFIG_FILE, PREPROCESSOR_FILE, ModelConfig, preprocessing_to_json
from .bundle.manifest import check_model_name
from .bundle.timm_config import read_timm_preprocessing
from .catalog import CatalogModel, get_official_model
from .engines.base import OUTPUTS, EngineOptions
from .engines.onnxruntime import OnnxRuntimeEngine
from .errors import OptionError, ParityError
from .images.preprocessing import Preprocessing
from .images.transform import preprocess
from .labels import (
    ClassLabel,
    find_timm_config,
    is_export_config,
    is_multi_label_export,
    is_timm_config,
    read_timm_config,
    resolve_labels,
)
from .network.families import FAMILIES, PADDLE_GHOSTNET, Family
from .network.graph import build_graph
from .network.reference import reference_forward
from .parity import EXACT_TOLERANCE, compare_logits
from .weights.params import Weights, read_weights

_GOLDEN_IMAGES = 2
_LIBRARIES = ("numpy", "onnx")

_log = logging.getLogger("ghostzoo")


@dataclass(frozen=True)
class Provenance:
    """Where a model's weights come from, and what shows that its graph computes what they say."""

    record: CatalogModel | None = None
    """The catalog's when these are the weights that it describes; it gives source and licence."""
    source_url: str | None = None
    """Where they were published; the record's ``weights_url`` by default."""
    golden: Golden | None = None
    """Inputs with the original's outputs; computed with ``reference_forward`` when ``None``."""
    validation: Mapping[str, Any] | None = None
    """A report of comparisons with the original; ``None``: there were none."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Versions of further libraries that took part."""
    card_notes: str = ""
    """Markdown for the end of the model card, such as how the weights were trained."""


def convert(
    weights: str | PathLike[str],
    out: str | PathLike[str],
    *,
    model: str | None = None,
    name: str | None = None,
    prefix: str | None = None,
    labels: str | PathLike[str] | Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    resize_short: int | None = None,
    crop_size: int | None = None,
    multi_label: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Turn weights with PaddleClas's or timm's keys into a bundle.

    Which family they are of, their width and their number of classes are seen from the keys and shapes. Of what timm
    wrote, the ``config.json`` beside the weights tells name, labels and preprocessing.

    Args:
        weights: a ``.pdparams`` or ``.safetensors`` file; nothing in it is executed.
        out: the bundle's folder; it must not exist unless ``overwrite``.
        model: the catalog model that the weights belong to; width and preprocessing are checked against and taken from
            it. ``None`` for a network of your own, whose width the weights tell.
        name: the bundle's name; by default the model's, or the architecture's that a ``config.json`` names.
        prefix: the key prefix of the network to convert, such as ``Student.``; by default the only one in the file.
        labels: a file with one line ``<id> <name>`` per class, an export's ``inference.yml``, timm's ``config.json``,
            or the names themselves; by default those of a ``config.json`` beside the weights, or else ImageNet's.
        preprocessing: ``default_preprocessing`` by default. Where neither a model nor ``labels`` tell it, that is the
            source's, for 224 pixels, and a warning is logged: weights do not tell the size of their images.
        resize_short: pixels of the resized image's shorter side, where they are not the default preprocessing's.
        crop_size: pixels of the network's input a side, likewise.
        multi_label: the network was trained to find any number of classes in an image (sigmoid and binary
            cross-entropy, as PaddleClas's ``MultiLabelLoss``), and not just one.
        overwrite: replace an existing bundle.

    Returns:
        The verified bundle. Its manifest says that the source's own forward pass was not part of the comparison.

    Raises:
        GhostZooError: the file, the labels or ``out`` cannot be used; nothing was written.
    """
    weights, out = as_path(weights, "weights"), as_path(out, "out")
    config = find_timm_config(weights)
    if model is None and name is None:
        name = read_timm_config(config)["architecture"] if config is not None else None
        if name is None:
            raise OptionError("Say which catalog model the weights belong to, or give the new model a name.")
    if not multi_label and isinstance(labels, str | PathLike) and is_multi_label_export(labels):
        raise OptionError(
            f"{labels} is of a multi-label model, whose scores are sigmoids; convert it with --multi-label "
            "(multi_label=True)."
        )
    record = get_official_model(model) if model is not None else None
    width, family = (record.width, FAMILIES[record.family]) if record is not None else (None, None)
    tensors = read_weights(weights, width=width, family=family, prefix=prefix)
    is_official = (
        record is not None
        and name in (None, record.name)
        and tensors.architecture.num_classes == record.num_classes
        and labels is None
        and not multi_label
    )
    architecture = tensors.architecture
    told = labels if labels is not None or preprocessing is not None else config
    is_assumed = record is None and preprocessing is None and _told_preprocessing(told) is None
    if preprocessing is None:
        usual = default_preprocessing(model, told, architecture.family)
        preprocessing = _resized(usual, resize_short, crop_size, in_proportion=is_assumed)
    bundle = write_model_bundle(
        tensors,
        out,
        model_name=name or (record.name if record else ""),
        labels=resolve_labels(labels if labels is not None else config, architecture.num_classes),
        preprocessing=preprocessing,
        provenance=Provenance(record if is_official else None),
        multi_label=multi_label,
        overwrite=overwrite,
    )
    if is_assumed and resize_short is None and crop_size is None:
        assumed = bundle.preprocessing
        _log.warning(
            "The weights of %s do not tell the size of their images: %d pixels, the centre of a shorter side of %d, "
            "are assumed. If they were trained otherwise, give --crop-size and --resize-short (in Python, "
            "preprocessing=).",
            *(bundle.name, assumed.crop_size, assumed.resize_short),
        )
    return bundle


def default_preprocessing(
    model: str | None = None,
    labels: str | PathLike[str] | Sequence[str] | None = None,
    family: Family = PADDLE_GHOSTNET,
) -> Preprocessing:
    """Return the default preprocessing: that of an ``inference.yml`` or ``config.json``, or else the catalog model's.

    Args:
        model, labels: as for ``convert``.
        family: where neither tells, its source's is taken.

    Raises:
        GhostZooError: the model is not in the catalog, or the preprocessing in the file is not supported.
    """
    told = _told_preprocessing(labels)
    if told is not None:
        return told
    if model is not None:
        return get_official_model(model).preprocessing
    return Preprocessing() if family == PADDLE_GHOSTNET else Preprocessing.timm()


def _told_preprocessing(labels: str | PathLike[str] | Sequence[str] | None) -> Preprocessing | None:
    if not isinstance(labels, str | PathLike):
        return None
    if is_timm_config(labels):
        return read_timm_preprocessing(labels)
    return read_exported_preprocessing(labels) if is_export_config(labels) else None


def _resized(
    usual: Preprocessing, resize_short: int | None, crop_size: int | None, *, in_proportion: bool
) -> Preprocessing:
    """Replace sizes; ``in_proportion``: a shorter side that is not given keeps its proportion to the crop."""
    crop = crop_size or usual.crop_size
    if resize_short is None:
        resize_short = round(crop * usual.resize_short / usual.crop_size) if in_proportion else usual.resize_short
    return replace(usual, resize_short=resize_short, crop_size=crop)


def write_model_bundle(
    weights: Weights,
    out: str | PathLike[str],
    *,
    model_name: str,
    labels: Sequence[ClassLabel],
    preprocessing: Preprocessing,
    provenance: Provenance | None = None,
    multi_label: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Build the graph of ``weights``, check it against golden vectors in ONNX Runtime, and write the bundle.

    Args:
        weights: as ``read_weights`` returns them.
        out: the bundle's folder.
        model_name: the bundle's name.
        labels: one for each class.
        preprocessing: ``crop_size`` is the side of the graph's input.
        provenance: where the weights come from; unknown by default.
        multi_label: whether an image shows any number of the classes, and not just one.
        overwrite: replace an existing bundle.

    Raises:
        ParityError: the graph does not compute what the weights say; nothing was written.
        BundleError: ``out`` or ``model_name`` cannot be used.
    """
    check_model_name(model_name)
    check_target(Path(out), overwrite)
    provenance = provenance or Provenance()
    record, golden = provenance.record, provenance.golden
    size = preprocessing.crop_size
    graph = build_graph(
        weights.arrays, weights.architecture, model_name=model_name, weights_sha256=weights.sha256, image_size=size
    )
    source = "paddle" if weights.architecture.family == PADDLE_GHOSTNET else "timm"
    report: dict[str, Any] = dict(provenance.validation or {f"{source}_comparison": "not run"})
    if golden is None:
        golden = reference_golden(weights, preprocessing)
        report["golden_source"] = "float64 reference forward pass on synthetic pictures"
    report["golden_check"] = check_outputs(graph, golden, model_name)
    identity: dict[str, Any] = {"file_name": weights.file_name, "sha256": weights.sha256, "size": weights.size}
    if weights.prefix:
        identity["prefix"] = weights.prefix
    source_url = provenance.source_url or (record.weights_url if record is not None else None)
    if record is not None and source_url is not None:
        identity["source_url"] = source_url
    architecture = weights.architecture
    config = ModelConfig(architecture.width, size, tuple(labels), multi_label, architecture.family)
    card = write_card(
        model_name,
        architecture,
        preprocessing,
        record=record,
        weights=identity,
        validation=report,
        multi_label=multi_label,
        notes=provenance.card_notes,
    )
    contents = {
        CARD_FILE: card.encode(),
        CONFIG_FILE: config.to_json(),
        PREPROCESSOR_FILE: preprocessing_to_json(preprocessing),
        MODEL_FILES["fp32"]: graph,
        GOLDEN_FILE: golden.to_bytes(),
    }
    return write_bundle(
        out,
        name=model_name,
        contents=contents,
        weights=identity,
        created_by={"ghostzoo": __version__, **{name: version(name) for name in _LIBRARIES}, **provenance.tools},
        validation=report,
        overwrite=overwrite,
    )


def reference_golden(weights: Weights, preprocessing: Preprocessing) -> Golden:
    """Compute golden vectors on synthetic pictures with the float64 reference forward pass."""
    pictures = synthetic_images(_GOLDEN_IMAGES, preprocessing.resize_short)
    pixel_values = np.stack([preprocess(picture, preprocessing) for picture in pictures])
    logits, embedding = reference_forward(weights.arrays, weights.architecture, pixel_values)
    return Golden(pixel_values, logits, embedding)


def check_outputs(graph: bytes, golden: Golden, model_name: str) -> dict[str, Any]:
    """Run a graph on the golden inputs in ONNX Runtime, and return how far its outputs are from the golden ones.

    Raises:
        ParityError: they differ by more than rounding.
    """
    report: dict[str, Any] = {}
    with OnnxRuntimeEngine(graph, EngineOptions(threads=1)) as engine:
        for output in OUTPUTS:
            agreement = compare_logits(getattr(golden, output), engine.run(golden.pixel_values, output))
            if not agreement.within(EXACT_TOLERANCE):
                raise ParityError(
                    f"The graph of {model_name} differs from the reference forward pass of its weights: {output} "
                    f"{agreement}. Nothing was written; please report this with the versions that 'pip list' shows."
                )
            report[output] = agreement.to_dict()
    return report

"""Official weights -> bundle, without Paddle: ``params`` reads them, ``graph`` writes the ONNX graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ._version import __version__
from .bundle.card import write_card
from .bundle.folder import CARD_FILE, GOLDEN_FILE, MODEL_FILES, Bundle, check_target, write_bundle
from .bundle.golden import Golden, synthetic_images
from .bundle.hub_configs import CONFIG_FILE, PREPROCESSOR_FILE, ModelConfig, preprocessing_to_json
from .bundle.manifest import check_model_name
from .catalog import CatalogModel, get_official_model
from .engines.base import OUTPUTS, EngineOptions
from .engines.onnxruntime import OnnxRuntimeEngine
from .errors import OptionError, ParityError
from .images.preprocessing import Preprocessing
from .images.transform import preprocess
from .labels import ClassLabel, resolve_labels
from .network.graph import build_graph
from .network.reference import reference_forward
from .parity import EXACT_TOLERANCE, compare_logits
from .weights.params import Weights, read_weights

_GOLDEN_IMAGES = 2
_LIBRARIES = ("numpy", "onnx")

_log = logging.getLogger("ghostzoo")


def convert(
    weights: str | PathLike[str],
    out: str | PathLike[str],
    *,
    model: str | None = None,
    name: str | None = None,
    labels: str | PathLike[str] | Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Turn a ``.pdparams`` file in the official format into a bundle.

    Args:
        weights: the file; nothing in it is executed.
        out: the bundle's folder; it must not exist unless ``overwrite``.
        model: the catalog model that the weights belong to; width and preprocessing are checked against and taken from
            it. ``None`` for a network of your own, whose width the weights tell.
        name: the bundle's name; the model's by default.
        labels: a file with a line ``<id> <name>`` a class, or the names; ImageNet's by default.
        preprocessing: the model's by default. Without a model it is the original's, for 224 pixels, and a warning is
            logged: weights do not tell the size of the images that they were trained on.
        overwrite: replace an existing bundle.

    Returns:
        The verified bundle. Its manifest says that Paddle's own forward pass was not part of the comparison.

    Raises:
        GhostZooError: the file, the labels or ``out`` cannot be used; nothing was written.
    """
    if model is None and name is None:
        raise OptionError("Say which catalog model the weights belong to, or give the new model a name.")
    record = get_official_model(model) if model is not None else None
    tensors = read_weights(weights, width=record.width if record else None)
    is_official = (
        record is not None
        and name in (None, record.name)
        and tensors.architecture.num_classes == record.num_classes
        and labels is None
    )
    bundle = write_model_bundle(
        tensors,
        out,
        model_name=name or (record.name if record else ""),
        labels=resolve_labels(labels, tensors.architecture.num_classes),
        preprocessing=preprocessing or (record.preprocessing if record else Preprocessing()),
        record=record if is_official else None,
        overwrite=overwrite,
    )
    if record is None and preprocessing is None:
        assumed = Preprocessing()
        _log.warning(
            "The weights of %s do not tell the size of their images: %d pixels, the centre of a shorter side of %d, "
            "are assumed. If they were trained otherwise, give --crop-size and --resize-short (in Python, "
            "preprocessing=).",
            *(bundle.name, assumed.crop_size, assumed.resize_short),
        )
    return bundle


def write_model_bundle(
    weights: Weights,
    out: str | PathLike[str],
    *,
    model_name: str,
    labels: Sequence[ClassLabel],
    preprocessing: Preprocessing,
    record: CatalogModel | None = None,
    source_url: str | None = None,
    golden: Golden | None = None,
    validation: Mapping[str, Any] | None = None,
    tools: Mapping[str, str] | None = None,
    card_notes: str = "",
    overwrite: bool = False,
) -> Bundle:
    """Build the graph of ``weights``, check it against golden vectors in ONNX Runtime, and write the bundle.

    Args:
        weights: as ``read_weights`` returns them.
        out: the bundle's folder.
        model_name: the bundle's name.
        labels: one for each class.
        preprocessing: ``crop_size`` is the side of the graph's input.
        record: the catalog's when these are the weights that it describes; it gives source and licence.
        source_url: where they were published; the record's ``weights_url`` by default.
        golden: inputs with the original's outputs; computed with ``reference_forward`` when ``None``.
        validation: a report of comparisons with the original; ``None`` says that there was none.
        tools: versions of further libraries that took part.
        card_notes: Markdown for the end of the model card, such as how the weights were trained.
        overwrite: replace an existing bundle.

    Raises:
        ParityError: the graph does not compute what the weights say; nothing was written.
        BundleError: ``out`` or ``model_name`` cannot be used.
    """
    check_model_name(model_name)
    check_target(Path(out), overwrite)
    size = preprocessing.crop_size
    graph = build_graph(
        weights.arrays, weights.architecture, model_name=model_name, weights_sha256=weights.sha256, image_size=size
    )
    report = dict(validation or {"paddle_comparison": "not run"})
    if golden is None:
        golden = reference_golden(weights, preprocessing)
        report["golden_source"] = "float64 reference forward pass on synthetic pictures"
    report["golden_check"] = _check_graph(graph, golden, model_name)
    identity: dict[str, Any] = {"file_name": weights.file_name, "sha256": weights.sha256, "size": weights.size}
    source_url = source_url or (record.weights_url if record is not None else None)
    if record is not None and source_url is not None:
        identity["source_url"] = source_url
    card = write_card(
        model_name,
        weights.architecture,
        preprocessing,
        record=record,
        weights=identity,
        validation=report,
        notes=card_notes,
    )
    contents = {
        CARD_FILE: card.encode(),
        CONFIG_FILE: ModelConfig(weights.architecture.width, size, tuple(labels)).to_json(),
        PREPROCESSOR_FILE: preprocessing_to_json(preprocessing),
        MODEL_FILES["fp32"]: graph,
        GOLDEN_FILE: golden.to_bytes(),
    }
    return write_bundle(
        out,
        name=model_name,
        contents=contents,
        weights=identity,
        created_by={"ghostzoo": __version__, **{name: version(name) for name in _LIBRARIES}, **(tools or {})},
        validation=report,
        overwrite=overwrite,
    )


def reference_golden(weights: Weights, preprocessing: Preprocessing) -> Golden:
    """Compute golden vectors on synthetic pictures with the float64 reference forward pass."""
    pictures = synthetic_images(_GOLDEN_IMAGES, preprocessing.resize_short)
    pixel_values = np.stack([preprocess(picture, preprocessing) for picture in pictures])
    logits, embedding = reference_forward(weights.arrays, weights.architecture, pixel_values)
    return Golden(pixel_values, logits, embedding)


def _check_graph(graph: bytes, golden: Golden, model_name: str) -> dict[str, Any]:
    """Run the graph on the golden inputs; both outputs must agree with the golden ones."""
    report: dict[str, Any] = {}
    with OnnxRuntimeEngine(graph, EngineOptions(threads=1)) as engine:
        for output in OUTPUTS:
            agreement = compare_logits(getattr(golden, output), engine.run(golden.pixel_values, output))
            if not agreement.within(EXACT_TOLERANCE):
                raise ParityError(
                    f"The graph of {model_name} differs from its weights' own forward pass: {output} {agreement}. "
                    "Nothing was written; please report this with the versions that 'pip list' shows."
                )
            report[output] = agreement.to_dict()
    return report

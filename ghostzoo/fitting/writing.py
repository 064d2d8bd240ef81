"""A fitted head -> a bundle: the graph with another last layer, golden vectors, card and manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..bundle.card import write_card
from ..bundle.converted import describe_formats
from ..bundle.edit import write_bundle
from ..bundle.folder import CARD_FILE, GOLDEN_FILE, MODEL_FILES, Bundle
from ..bundle.golden import Golden
from ..bundle.hub_configs import CONFIG_FILE, PREPROCESSOR_FILE
from ..catalog import DEFAULT_MODEL
from ..classifier import Classifier
from ..converter import check_outputs
from ..labels import ClassLabel
from ..network.architecture import Architecture
from ..network.head import with_classes
from .findings import BUNDLED
from .pictures import PICTURES_FILE
from .ridge import LinearHead


def write_fitted(
    classifier: Classifier,
    out: Path,
    name: str,
    classes: tuple[str, ...],
    head: LinearHead,
    facts: Mapping[str, Any],
    kept: bytes,
    overwrite: bool,
) -> Bundle:
    """Replace the last layer of the classifier's graph, and write the bundle.

    Args:
        classifier: whose other layers are taken.
        out, name, overwrite: as for ``fit``.
        classes: names of the classes.
        head: the new layer.
        facts: what the manifest and the card say of the fit.
        kept: content of ``PICTURES_FILE``, which is left out where it is empty.

    Raises:
        GhostZooError: ``out`` cannot be written, or the graph is none that can be fitted.
    """
    base = classifier.bundle
    labels = tuple(map(ClassLabel, classes))
    graph = with_classes(base.model(), base.head(), head.weight, head.bias, name)
    golden = base.golden()
    golden = Golden(golden.pixel_values, head.logits(golden.embedding), golden.embedding)
    weights = _identity(base)
    origin = weights["fitted_on"]
    report = {
        "golden_source": f"the golden embeddings of {origin['model']}, and the fitted layer in numpy",
        "golden_check": check_outputs(graph, golden, name),
        "fit": dict(facts),
    }
    config = replace(base.config, labels=labels, multi_label=False)
    card = write_card(
        name,
        Architecture.of(base.config.width, len(classes)),
        base.preprocessing,
        record=None,
        weights=weights,
        validation=report,
        notes=_notes(origin["model"], facts, kept),
    )
    contents = {
        CARD_FILE: card.encode(),
        CONFIG_FILE: config.to_json(),
        PREPROCESSOR_FILE: base.read(PREPROCESSOR_FILE),
        MODEL_FILES["fp32"]: graph,
        GOLDEN_FILE: golden.to_bytes(),
        **({PICTURES_FILE: kept} if kept else {}),
    }
    return write_bundle(
        out,
        name=name,
        contents=contents,
        weights=weights,
        created_by={"ghostzoo": __version__, "numpy": np.__version__},
        validation=report,
        overwrite=overwrite,
    )


def _identity(base: Bundle) -> Mapping[str, Any]:
    """Say whose layers these are: those of the graph that was fitted on, of which the official weights are no longer
    the whole model."""
    if "fitted_on" in base.manifest.weights:
        return base.manifest.weights
    file = MODEL_FILES["fp32"]
    record = base.manifest.files[file]
    origin = {"model": base.name, "graph_sha256": record.sha256, "weights": dict(base.manifest.weights)}
    return {"file_name": file, "sha256": record.sha256, "size": record.size, "fitted_on": origin}


def general_warnings(base: Bundle, *, grows: bool) -> tuple[str, ...]:
    """Say what to expect of the features of ``base``, and what of it is left out if it ``grows``."""
    warnings = [BUNDLED] if _identity(base)["fitted_on"]["model"] == DEFAULT_MODEL else []
    left = [*base.precisions[1:], *describe_formats(base.manifest.files)]
    if grows and left:
        warnings.append(
            f"The files of {base.name} for {', '.join(left)} are of its earlier classes and are left out; make them "
            "again."
        )
    return tuple(warnings)


def _notes(model: str, facts: Mapping[str, Any], kept: bytes) -> str:
    low, high = facts["interval_of_95_percent"]
    lines = [
        "## How it was made",
        "",
        f"`ghostzoo fit` fitted the last layer to {facts['pictures']:,} labelled pictures, by ridge regression on the "
        f"embeddings of {model}, whose other layers are unchanged. Accuracy in cross-validation: "
        f"{facts['cross_validated_accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}).",
        "",
        "It takes every picture for one of its classes, whatever the picture shows. Pictures of another kind than "
        "those that it was fitted to may be recognised less well, and those that the model's other layers were trained "
        "on look easier than new ones.",
    ]
    if kept:
        lines += [
            "",
            f"`{PICTURES_FILE}` holds the embeddings, names and hashes of these pictures, so that `ghostzoo fit --add` "
            "can add more. Before you publish the bundle, think of whether they may be known; `--no-keep` leaves them "
            "out.",
        ]
    return "\n".join(lines)

"""The end of a run: official-format weights and a bundle, checked against the network that was trained."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.torch_network import GhostNet, official_arrays
from exporters.training.notes import BUNDLE_FOLDER, WEIGHTS_FILE, training_notes
from exporters.training.recipe import Recipe
from ghostzoo._utils.files import write_atomically
from ghostzoo.bundle.folder import Bundle
from ghostzoo.bundle.golden import Golden, synthetic_images
from ghostzoo.converter import write_model_bundle
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess
from ghostzoo.labels import ClassLabel
from ghostzoo.weights.params import read_weights

_GOLDEN_IMAGES = 4
_PICKLE_PROTOCOL = 4  # what paddle.save writes


def write_weights(network: GhostNet, path: Path) -> None:
    """Write ``network`` in the official format: a pickled dict of float32 arrays, as Paddle reads and writes it."""
    write_atomically(path, pickle.dumps(official_arrays(network), protocol=_PICKLE_PROTOCOL))


def write_results(
    network: GhostNet,
    out: Path,
    name: str,
    classes: Sequence[str],
    recipe: Recipe,
    preprocessing: Preprocessing,
    command: str,
    facts: Mapping[str, Any],
) -> Bundle:
    """Write ``weights.pdparams`` and the folder ``bundle`` to ``out``.

    The bundle's golden vectors are this network's own answers, so a bundle is written only if its graph, run in ONNX
    Runtime, agrees with the trained network.

    Args:
        network: the trained network.
        out: the run's folder.
        name: the bundle's name.
        classes: names, by class index.
        recipe: for the model card.
        preprocessing: how images become the network's input.
        command: what a user typed; for the model card.
        facts: counts and results for the manifest's validation report and the card.

    Raises:
        GhostZooError: the bundle cannot be written, or its graph differs from the network.
    """
    write_weights(network, out / WEIGHTS_FILE)
    return write_model_bundle(
        read_weights(out / WEIGHTS_FILE),
        out / BUNDLE_FOLDER,
        model_name=name,
        labels=[ClassLabel(label) for label in classes],
        preprocessing=preprocessing,
        golden=_golden(network, preprocessing),
        validation={**facts, "golden_source": "the trained PyTorch network in float64 on synthetic pictures"},
        tools={"torch": torch.__version__},
        card_notes=training_notes((recipe.to_dict(), command)),
        overwrite=True,
    )


@torch.inference_mode()
def _golden(network: GhostNet, preprocessing: Preprocessing) -> Golden:
    """In float64, so that a difference is the graph's alone."""
    network = copy.deepcopy(network).to("cpu", torch.float64).eval()
    pictures = synthetic_images(_GOLDEN_IMAGES, preprocessing.resize_short)
    pixel_values = np.stack([preprocess(picture, preprocessing) for picture in pictures])
    x = torch.from_numpy(pixel_values).double()
    return Golden(pixel_values, network(x).float().numpy(), network.embed(x).float().numpy())

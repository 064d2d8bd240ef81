"""The proof of the catalog's timm models, one after the other, and the table that the documentation shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from exporters.export import OURS
from exporters.flops import count_flops
from exporters.route_comparison import RouteComparison, compare_on_images
from exporters.routes import onnx_route
from exporters.timm_network import calibrated_arrays
from exporters.timm_oracle import TIMM_SINGLE, TORCH_ONNX, from_weights
from ghostzoo.catalog import TIMM_FILE, get_model, list_models
from ghostzoo.errors import InputError, ParityError
from ghostzoo.fetch.huggingface_client import Hub
from ghostzoo.fetch.options import FetchOptions, HubModel
from ghostzoo.images.decode import read_image
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.graph import build_graph
from ghostzoo.weights.params import MAX_WEIGHTS_BYTES, Weights, read_weights

_TAG = ".in1k"
MODELS = tuple(name.removesuffix(_TAG) for name in list_models(f"*{_TAG}"))
"""The catalog's models with weights in timm."""
_CALIBRATION_IMAGES = 32

Source = Callable[[str], Weights]


@dataclass(frozen=True)
class Proof:
    """That one model's graph computes what timm does, and its size, counted in the graph."""

    name: str
    comparison: RouteComparison
    parameters: int
    multiply_adds: int
    nodes: int
    weights_sha256: str
    """Empty for random weights."""


def prove(name: str, weights: Weights, images: Sequence[Any], on_step: Callable[[str], object]) -> Proof:
    """Compare timm's forward pass in float64 with PyTorch's graph and with ours.

    Raises:
        ParityError: they differ on an image, or the graph has another size than the architecture.
    """
    preprocessing = Preprocessing.timm()
    architecture = weights.architecture
    on_step(f"{name}: making the original's graph")
    subject = from_weights(weights, preprocessing.crop_size)
    graph = build_graph(
        weights.arrays,
        architecture,
        model_name=name,
        weights_sha256=weights.sha256,
        image_size=preprocessing.crop_size,
    )
    counts = count_flops(graph, architecture)
    expected = architecture.count_parameters(), architecture.count_multiply_adds(preprocessing.crop_size)
    if (counts.trainable_parameters, counts.multiply_adds) != expected:
        raise ParityError(
            f"The graph of {name} has {counts.trainable_parameters} parameters and {counts.multiply_adds} "
            f"multiply-adds, the architecture {expected[0]} and {expected[1]}; a layer was left out or counted twice."
        )
    routes = {**subject.routes, OURS: onnx_route(graph)}
    _, _, comparison = compare_on_images(
        routes, images, preprocessing, subject.reference, name, lambda step: on_step(f"{name}: {step}")
    )
    nodes = len(onnx.load_from_string(graph).graph.node)
    return Proof(name, comparison, counts.trainable_parameters, counts.multiply_adds, nodes, weights.sha256)


def random_source(images: Sequence[Any]) -> Source:
    """Random weights with batch-norm statistics of the first images."""
    preprocessing = Preprocessing.timm()
    pixel_values: list[NDArray[np.float32]] = []

    def make(name: str) -> Weights:
        if not pixel_values:
            pixel_values.extend(preprocess(read_image(each), preprocessing) for each in images[:_CALIBRATION_IMAGES])
        architecture = Architecture.named(name)
        return Weights(calibrated_arrays(architecture, np.stack(pixel_values)), architecture, "random", "", 0)

    return make


def folder_source(folder: Path) -> Source:
    """``<model>.safetensors`` or ``<model>/model.safetensors`` in a folder."""

    def read(name: str) -> Weights:
        places = (folder / f"{name}.safetensors", folder / name / "model.safetensors")
        path = next(filter(Path.is_file, places), None)
        if path is None:
            raise InputError(f"{folder} has neither {name}.safetensors nor {name}/model.safetensors; add it.")
        return _checked(path, name)

    return read


def hub_source(name: str) -> Weights:
    """The weights in timm's repository on the Hub, which are verified."""
    record = get_model(f"{name}{_TAG}")
    hub = Hub(HubModel(record.repo or "", record.commit), FetchOptions())
    with TemporaryDirectory() as folder:
        _, file = hub.save_large(TIMM_FILE, Path(folder), MAX_WEIGHTS_BYTES, name)
        return _checked(file, name)


def _checked(path: Path, name: str) -> Weights:
    named = Architecture.named(name)
    return read_weights(path, width=named.width, family=named.family)


def to_markdown(proofs: Sequence[Proof], weights: str, versions: Mapping[str, str]) -> str:
    """Return the table of the documentation, with what it is of."""
    images = len(proofs[0].comparison.images)
    lines = [
        f"timm's forward pass in float64 against three others, on {images} photographs, with {weights}: the largest "
        "difference of a logit, of the largest logit; the five best classes are the same on every photograph. "
        "Parameters and multiply-adds are counted in the graph. "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}.",
        "",
        "| model | parameters | multiply-adds | timm in float32 | torch.onnx's graph | ghostzoo's graph | nodes |",
        "|---|---|---|---|---|---|---|",
    ]
    for proof in proofs:
        found = (f"{proof.comparison.summary(route).relative:.1e}" for route in (TIMM_SINGLE, TORCH_ONNX, OURS))
        sizes = (f"{proof.parameters / 1e6:.3f} M", f"{proof.multiply_adds / 1e6:.2f} M")
        lines.append(f"| `{proof.name}` | {' | '.join((*sizes, *found))} | {proof.nodes} |")
    return "\n".join(lines) + "\n"

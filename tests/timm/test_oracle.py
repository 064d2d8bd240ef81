"""Graphs against timm's own networks, as its wheels have them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

if find_spec("timm") is None:  # importing it may take a schema that exporters.timm_network declares first
    pytest.skip("timm is not installed here; 'nox -s timm' makes an environment with it", allow_module_level=True)

import torch

from exporters.cli import main
from exporters.prove import MODELS, prove, random_source
from exporters.routes import onnx_route
from exporters.timm_network import build_network, calibrated_arrays, forward, fused_network, import_timm
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import OptionError, ParityError
from ghostzoo.exchange import rewrite_weights
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.graph import build_graph
from ghostzoo.network.reference import reference_forward
from ghostzoo.parity import compare_logits
from ghostzoo.weights.params import read_weights
from ghostzoo.weights.safetensors import dump_safetensors
from tests.fixtures.networks import random_arrays, write_weights

pytestmark = pytest.mark.slow

SMALLEST = ["ghostnet_050", "ghostnetv2_100", "ghostnetv3_050", "repghostnet_050"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(12)]
    for index, path in enumerate(paths):  # as different as photographs are, which the calibration needs
        coarse = rng.integers(0, 256, (6 << index % 5, 8 << index % 5, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, (320, 240 + index)))
    return paths


def noise(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(size).normal(size=(count, 3, size, size)).astype(np.float32)


def test_the_models_are_those_with_weights_in_timm() -> None:
    import_timm()
    import timm

    pretrained = [*timm.list_models("ghostnet*", pretrained=True), *timm.list_models("repghost*", pretrained=True)]
    assert sorted(MODELS) == sorted(name.partition(".")[0] for name in pretrained)


@pytest.mark.parametrize("name", SMALLEST)
def test_each_family_is_proven(name: str, images: list[Path]) -> None:
    proof = prove(name, random_source(images)(name), images, lambda _: None)
    assert len(proof.comparison.images) == len(images)
    assert set(proof.comparison.agreements) == {"timm forward", "torch.onnx graph", "ghostzoo graph"}


def test_a_graph_of_other_weights_is_refused(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_source(images)("repghostnet_050")

    def build_another(arrays: dict[str, np.ndarray], *rest: Any, **more: Any) -> bytes:
        return build_graph({**arrays, "classifier.bias": arrays["classifier.bias"] + 1e-3}, *rest, **more)

    monkeypatch.setattr("exporters.prove.build_graph", build_another)
    with pytest.raises(ParityError, match="ghostzoo graph differs from timm forward in float64 on 12 of 12 images"):
        prove("repghostnet_050", weights, images, lambda _: None)


@pytest.mark.parametrize("name", ["ghostnetv3_050", "repghostnet_050"])
def test_weights_that_timm_fused_are_read(name: str, tmp_path: Path) -> None:
    architecture = Architecture.named(name, 5)
    pixels = noise(4, 64)
    network = build_network(calibrated_arrays(architecture, pixels), architecture)
    state = fused_network(network).state_dict()
    path = tmp_path / "w.safetensors"
    arrays = {key: value.numpy() for key, value in state.items() if not key.endswith("num_batches_tracked")}
    path.write_bytes(dump_safetensors(arrays))
    weights = read_weights(path)
    assert weights.architecture.fused
    graph = build_graph(weights.arrays, weights.architecture, model_name=name, weights_sha256="", image_size=64)
    expected, _ = forward(network.double(), pixels)
    assert compare_logits(expected, onnx_route(graph)(pixels)).within(1e-5)
    original, _ = forward(build_network(weights.arrays, weights.architecture).double(), pixels)
    assert compare_logits(expected, original).within(1e-5)


@pytest.mark.parametrize("width", [0.5, 1.3])
def test_timm_loads_what_was_paddles(width: float, tmp_path: Path) -> None:
    architecture = Architecture.of(width, 3)
    arrays = random_arrays(architecture)
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\nbird\n")
    weights = write_weights(tmp_path / "w.pdparams", arrays)
    rewrite_weights(weights, tmp_path / "timm", form="timm", labels=labels)
    network = import_timm().create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    assert network.pretrained_cfg["label_names"] == ["cat", "dog", "bird"]
    pixels = noise(2, 64)
    expected, embedding = reference_forward(arrays, architecture, pixels)
    with torch.inference_mode():
        logits, theirs = forward(network.double(), pixels)
    assert compare_logits(expected, logits).within(1e-6)
    assert compare_logits(embedding, theirs).within(1e-6)


def test_export_compares_with_timm(images: list[Path], tmp_path: Path) -> None:
    weights = random_source(images)("repghostnet_050")
    (tmp_path / "w.safetensors").write_bytes(dump_safetensors(weights.arrays))
    arguments = ["export", "--name", "mine", "--weights", tmp_path / "w.safetensors", "--images", images[0].parent]
    result = CliRunner().invoke(main, [*map(str, arguments), "--out", str(tmp_path / "bundle")])
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(tmp_path / "bundle")
    report = bundle.manifest.validation["timm_comparison"]
    assert report["reference"] == "timm forward in float64"
    assert report["routes"].keys() == {"timm forward", "torch.onnx graph", "ghostzoo graph"}
    assert bundle.manifest.created_by.keys() >= {"timm", "torch"}
    assert bundle.preprocessing.interpolation == "bicubic"


def test_a_width_that_timm_has_not_is_refused() -> None:
    architecture = Architecture.named("repghostnet_075", 2)
    with pytest.raises(OptionError, match=r"timm has no RepGhostNet of width 0\.75 to compare with"):
        build_network(random_arrays(architecture), architecture)


def test_the_table_is_written_between_its_marks(images: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- proof -->\nold\n<!-- /proof -->\nafter\n")
    arguments = ["prove", "--images", images[0].parent, "--random", "--model", "repghostnet_050", "--write", page]
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    before, _, rest = page.read_text().partition("<!-- proof -->\n")
    assert (before, rest.partition("<!-- /proof -->")[2]) == ("before\n", "\nafter\n")
    assert "| `repghostnet_050` | 2.307 M | 43.31 M |" in rest
    assert "old" not in rest

"""Each family is trained by its name, with its branches apart, and its bundle computes what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ghostzoo
from exporters.torch_network import GhostNet, load_official, official_arrays
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.reference import reference_forward
from ghostzoo.parity import compare_logits
from ghostzoo.weights.params import read_weights
from tests.fixtures.networks import random_arrays
from tests.training.runs import train

NAMES = ["ghostnet_010", "ghostnetv2_010", "ghostnetv3_010", "repghostnet_010"]


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_the_reference(name: str) -> None:
    architecture = Architecture.named(name, 3)
    arrays = random_arrays(architecture)
    network = GhostNet(architecture).double().eval()
    load_official(network, arrays)
    assert all(np.array_equal(array, arrays[key]) for key, array in official_arrays(network).items())
    pixels = np.random.default_rng(0).normal(size=(2, 3, 50, 50)).astype(np.float32)
    logits, embedding = reference_forward(arrays, architecture, pixels)
    with torch.inference_mode():
        x = torch.from_numpy(pixels).double()
        assert compare_logits(logits, network(x).float().numpy()).within(1e-6)
        assert compare_logits(embedding, network.embed(x).float().numpy()).within(1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_a_new_network_learns(name: str) -> None:
    torch.manual_seed(0)
    network = GhostNet(Architecture.named(name, 3), dropout=0.0)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(4):  # a block begins as its shortcut, so its first layers wait for its last
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(torch.randn(8, 3, 64, 64)), torch.arange(8) % 3).backward()
        optimiser.step()
    still = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert not [key for key in still if ".se_block." not in key]  # whose units may be idle in so narrow a network


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_by_name_and_another_from_its_weights(name: str, pictures: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    small = ("--data", pictures, "--epochs=1", "--image-size=64", "--dropout=0")
    train(*small, f"--model={name}", "--out", first).check()
    weights = read_weights(first / "weights.safetensors")
    assert weights.architecture.state_shapes() == Architecture.named(name, 3).state_shapes()
    bundle = ghostzoo.Bundle.open(first / "bundle")
    assert bundle.config.family == weights.architecture.family
    with ghostzoo.load(first / "bundle") as classifier:
        assert classifier.self_check().within(1e-5)
    second = tmp_path / "second"
    train(*small, "--init", first / "weights.safetensors", "--val-split=0.2", "--out", second).check()
    assert read_weights(second / "weights.safetensors").architecture.family == weights.architecture.family


def test_attention_needs_larger_images(pictures: Path, tmp_path: Path) -> None:
    error = train("--data", pictures, "--model=ghostnetv2_010", "--out", tmp_path / "run").error()
    assert "GhostNetV2 of width 0.1 needs images of at least 33 pixels a side" in error

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from exporters.torch_network import GhostNet, load_official, official_arrays, save_official
from ghostzoo.errors import WeightsError
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.reference import reference_forward
from ghostzoo.parity import EXACT_TOLERANCE, compare_logits
from ghostzoo.weights.params import read_weights
from tests.fixtures.networks import random_arrays

SMALL = Architecture.of(0.35, 7)


@pytest.mark.parametrize("name", ["x0_5", "x1_0", "x1_3"])
def test_official_weights_reproduce_logits_and_round_trip(shared: Path, name: str) -> None:
    weights = read_weights(shared / "reference" / f"GhostNet_{name}_pretrained.pdparams")
    network = GhostNet(weights.architecture)
    load_official(network, weights.arrays)
    inputs = np.load(shared / "reference" / "preprocessed.npz")
    original = np.load(shared / "reference" / f"GhostNet_{name}_logits.npz")
    files = [file for file in original["files"] if file in inputs.files]
    assert len(files) >= 7
    logits = original["logits"][[list(original["files"]).index(file) for file in files]]
    with torch.inference_mode():
        answer = network.eval()(torch.from_numpy(np.stack([inputs[file] for file in files]))).numpy()
    assert compare_logits(logits, answer).within(EXACT_TOLERANCE)
    returned = official_arrays(network)
    assert set(returned) == set(weights.arrays)
    assert all(np.array_equal(returned[key], array) for key, array in weights.arrays.items())


def test_any_width_and_class_count_matches_the_reference() -> None:
    arrays = random_arrays(SMALL)
    network = GhostNet(SMALL).eval()
    load_official(network, arrays)
    x = np.random.default_rng(1).normal(size=(2, 3, 64, 64)).astype(np.float32)
    logits, embedding = reference_forward(arrays, SMALL, x)
    with torch.inference_mode():
        assert compare_logits(logits, network(torch.from_numpy(x)).numpy()).within(EXACT_TOLERANCE)
        assert compare_logits(embedding, network.embed(torch.from_numpy(x)).numpy()).within(EXACT_TOLERANCE)


def test_written_weights_are_read_as_official_ones(tmp_path: Path) -> None:
    network = GhostNet(SMALL)
    save_official(network, tmp_path / "own.pdparams")
    weights = read_weights(tmp_path / "own.pdparams", width=0.35, num_classes=7)
    assert {key: array.shape for key, array in weights.arrays.items()} == SMALL.state_shapes()
    other = GhostNet(SMALL)
    load_official(other, weights.arrays)
    expected = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert all(torch.equal(other.state_dict()[key], value) for key, value in expected.items())


def test_what_is_copied_out_does_not_change_with_the_network() -> None:
    network = GhostNet(SMALL)
    arrays = official_arrays(network)
    before = {key: array.copy() for key, array in arrays.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert all(np.array_equal(arrays[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("fc_1.bias"), "1 missing: fc_1.bias"),
        (lambda arrays: arrays.update({"fc_2.bias": arrays["fc_1.bias"]}), "1 unexpected: fc_2.bias"),
        (lambda arrays: arrays.update({"fc_1.weight": arrays["fc_1.weight"].T}), "1 mis-shaped: fc_1.weight"),
        (lambda arrays: arrays["fc_1.bias"].fill(np.nan), "1 not finite: fc_1.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(change: object, message: str) -> None:
    network = GhostNet(SMALL)
    before = official_arrays(network)
    arrays = random_arrays(SMALL)
    change(arrays)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=message):
        load_official(network, arrays)
    assert all(np.array_equal(array, before[key]) for key, array in official_arrays(network).items())


def test_dropout_is_for_training_only() -> None:
    network = GhostNet(SMALL)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embedding = network.eval().embed(x)
        assert torch.equal(network(x), network.fc_1(embedding))
        network.dropout.train()
        assert not torch.equal(network(x), network(x))


def test_statistics_follow_the_batches_as_in_the_original() -> None:
    """Paddle's momentum of 0.9 is the weight of the past."""
    network = GhostNet(SMALL).train()
    normalised = network.conv1._batch_norm
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean = network.conv1._conv(x).mean(dim=(0, 2, 3))
        network(x)
    torch.testing.assert_close(normalised.running_mean, 0.1 * mean)

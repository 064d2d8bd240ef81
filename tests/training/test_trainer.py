from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from exporters.torch_network import official_arrays
from exporters.training.trainer import Trainer, make_average, make_optimizer
from tests.training.runs import make_trainer, recipe

pytestmark = pytest.mark.slow


def trained(pictures: Path, out: Path, **choices: Any) -> Trainer:
    out.mkdir(exist_ok=True)
    trainer = make_trainer(recipe(**{"epochs": 1, **choices}), pictures, out)
    trainer.run()
    return trainer


def distance(one: Trainer, other: dict[str, Tensor]) -> float:
    """Largest change of any learnt tensor."""
    return max(float((value.detach() - other[name]).abs().max()) for name, value in one.network.named_parameters())


def test_the_same_seed_gives_the_same_weights(pictures: Path, tmp_path: Path) -> None:
    one, again, other = (official_arrays(trained(pictures, tmp_path, seed=s).network) for s in (1, 1, 2))
    assert all(np.array_equal(one[key], again[key]) for key in one)
    assert not all(np.array_equal(one[key], other[key]) for key in one)


def test_training_learns_the_pictures(pictures: Path, tmp_path: Path) -> None:
    """On held-out pictures, far better than the third that guessing gets right."""
    chosen = recipe(width=0.25, epochs=6, learning_rate=0.003, optimizer="adamw", crop_scale=0.5, ema=0.9, seed=1)
    trainer = make_trainer(chosen, pictures, tmp_path, validation_split=0.25)
    trainer.run()
    assert trainer.history[-1]["validation_accuracy"] >= 0.6
    assert trainer.history[-1]["train_loss"] < trainer.history[0]["train_loss"]


def test_images_grow_and_are_measured_at_the_size_of_their_stage(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(epochs=3, image_size=64, resize_short=72, grow=((32, 1), (48, 1)))
    trainer = make_trainer(chosen, pictures, tmp_path, validation_split=0.2)
    seen: dict[str, list[int]] = {"training": [], "validation": []}

    def note(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes = seen["training" if module.training else "validation"]
        sizes.extend({inputs[0].shape[-1]} - set(sizes[-1:]))

    trainer.network.conv1.register_forward_pre_hook(note)
    trainer.run()
    assert seen == {"training": [32, 48, 64], "validation": [32, 48, 64]}
    assert [row["image_size"] for row in trainer.history] == [32, 48, 64]
    sizes = [(chosen.preprocessing_at(e).resize_short, chosen.preprocessing_at(e).crop_size) for e in range(3)]
    assert sizes == [(36, 32), (54, 48), (72, 64)]


def test_clipped_gradients_bound_the_weight_change(pictures: Path, tmp_path: Path) -> None:
    """15 steps of SGD without momentum or decay: each moves by at most the learning rate times the norm."""
    plain = {"momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.1, "warmup_epochs": 0.0}
    start = make_trainer(recipe(**plain), pictures, tmp_path).network.state_dict()
    clipped = trained(pictures, tmp_path, clip_gradients=1e-3, **plain)
    free = trained(pictures, tmp_path, **plain)
    assert 0 < distance(clipped, start) <= 15 * 0.1 * 1e-3
    assert distance(free, start) > 15 * 0.1 * 1e-3


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_keeps_float32_weights(pictures: Path, tmp_path: Path, precision: str) -> None:
    exact = trained(pictures, tmp_path)
    mixed = trained(pictures, tmp_path, precision=precision)
    assert all(value.dtype == torch.float32 for value in mixed.network.parameters())
    # With float16 the first steps only look for the scale of the loss.
    assert mixed.history[-1]["train_loss"] == pytest.approx(exact.history[-1]["train_loss"], rel=0.5)
    assert distance(mixed, exact.network.state_dict()) > 0


def test_moving_average_is_exponential() -> None:
    network = torch.nn.BatchNorm1d(2)
    average = make_average(network, 0.9)  # type: ignore[arg-type]
    expected = network.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            network.weight.add_(torch.tensor([1.0, -2.0]))
            network.running_mean.add_(1)
            network.num_batches_tracked.add_(1)
        average.update_parameters(network)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    torch.testing.assert_close(average.module.weight, expected)
    assert 0 < float(average.module.running_mean[0]) < 39
    assert int(average.module.num_batches_tracked) == 39
    assert not average.module.training
    assert not average.module.weight.requires_grad


def test_decay_spares_batch_norm_alone(pictures: Path, tmp_path: Path) -> None:
    network = make_trainer(recipe(), pictures, tmp_path).network
    for kind in ("sgd", "adamw"):
        groups = make_optimizer(network, recipe(optimizer=kind, weight_decay=0.01)).param_groups
        assert [group["weight_decay"] for group in groups] == [0.01, 0.0, 0.01, 0.01]
        spared = {id(parameter) for parameter in groups[1]["params"]}
        named = {id(parameter) for name, parameter in network.named_parameters() if "_batch_norm" in name}
        assert spared == named
        assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_a_frozen_backbone_has_no_optimiser_state(pictures: Path, tmp_path: Path) -> None:
    trainer = trained(pictures, tmp_path, head_epochs=1)
    learnt = {name for name, parameter in trainer.network.named_parameters() if parameter in trainer._optimizer.state}
    assert learnt == {"fc_1.weight", "fc_1.bias"}


def test_measuring_leaves_the_network_as_it_was(pictures: Path, tmp_path: Path) -> None:
    trainer = make_trainer(recipe(head_epochs=2), pictures, tmp_path, validation_split=0.2)
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    validation = trainer._data.validation
    assert validation is not None
    first = trainer.evaluate(validation)
    assert trainer.evaluate(validation) == first
    assert all(torch.equal(value, before[key]) for key, value in trainer.network.state_dict().items())
    assert trainer.network.dropout.training
    assert not trainer.network.conv1.training

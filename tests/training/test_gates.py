from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from exporters.torch_network import GhostNet, SqueezeExcite, reset_dead_gates
from exporters.training.trainer import make_optimizer
from ghostzoo.network.architecture import Architecture
from tests.training.runs import make_trainer, recipe, train

pytestmark = pytest.mark.slow


@pytest.fixture
def network() -> GhostNet:
    """A network whose blocks count, for none starts as its shortcut alone, and whose gates all answer."""
    torch.manual_seed(0)
    network = GhostNet(Architecture.of(0.1, 3)).eval()
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d) and ".ghost_module_2." in name:
            torch.nn.init.ones_(module.weight)
        elif isinstance(module, SqueezeExcite):
            torch.nn.init.zeros_(module.squeeze.weight)
            torch.nn.init.ones_(module.squeeze.bias)
    return network


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def gates(network: GhostNet) -> dict[str, SqueezeExcite]:
    return {name: module for name, module in network.named_modules() if isinstance(module, SqueezeExcite)}


def kill(gate: SqueezeExcite) -> None:
    """No image passes the squeeze any more; every gate is a constant, half of them shut."""
    with torch.no_grad():
        gate.squeeze.bias.fill_(-1e6)
        gate.excitation.bias.copy_(torch.linspace(-1, 1, len(gate.excitation.bias)))


@torch.no_grad()
def test_resetting_dead_gates_keeps_the_output(network: GhostNet, images: Tensor) -> None:
    first, second, *_ = gates(network)
    for name in (first, second):
        kill(gates(network)[name])
    before = network(images)
    untouched = {name: gate.squeeze.weight.clone() for name, gate in gates(network).items()}
    assert reset_dead_gates(network, images) == [first, second]
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-4)
    for name, gate in gates(network).items():
        assert torch.equal(gate.squeeze.weight, untouched[name]) == (name not in (first, second))


def test_reset_gates_receive_gradients_again(network: GhostNet, images: Tensor) -> None:
    gate = next(iter(gates(network).values()))
    kill(gate)
    network(images).square().sum().backward()
    assert not gate.squeeze.weight.grad.any()
    reset_dead_gates(network, images)
    network.zero_grad()
    network(images).square().sum().backward()
    assert gate.excitation.weight.grad.any()


def test_a_run_can_start_with_gates_that_were_dead(pictures: Path, finished: Path, tmp_path: Path) -> None:
    options = ("--data", pictures, "--out", tmp_path / "run", "--epochs=1", "--reset-gates", "--ema=0.9")
    assert "give these with --init" in train(*options).error()
    run = train(*options, "--init", finished / "weights.pdparams").check()
    assert "re-initialised dead gates: " in run.stderr
    again = train(*options, "--init", finished / "weights.pdparams", "--resume").check()
    assert "dead gates" not in again.stderr


def test_gates_learn_at_their_own_rate(pictures: Path, tmp_path: Path) -> None:
    chosen = recipe(epochs=1, gate_rate=0.0, optimizer="adamw", weight_decay=0.0)
    trainer = make_trainer(chosen, pictures, tmp_path)
    before = {name: value.detach().clone() for name, value in trainer.network.named_parameters()}
    trainer.run()
    kept = {name for name, value in trainer.network.named_parameters() if torch.equal(value, before[name])}
    assert kept == {name for name in before if ".se_block." in name}


def test_only_batch_norm_has_no_weight_decay(network: GhostNet) -> None:
    optimizer = make_optimizer(network, recipe(weight_decay=0.01, gate_rate=0.1))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = [{names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups]
    assert sorted(name for group in groups for name in group) == sorted(names.values())
    for group, members in zip(optimizer.param_groups, groups, strict=True):
        assert all((group["weight_decay"] == 0) == ("_batch_norm" in name) for name in members)
        assert all((group["rate_share"] == 0.1) == (".se_block." in name) for name in members)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from exporters.cli import main
from exporters.efficientnet_lite import read_state
from exporters.efficientnet_lite_torch import EfficientNetLite
from exporters.on_device.budget import Budget
from exporters.on_device.networks import MovingAverage, Step, calibrate_head, frozen, logits_of
from exporters.on_device.views import Strengths, Views
from exporters.torch_network import GhostNet
from ghostzoo.bundle.folder import Bundle
from ghostzoo.evaluation.calibrate import fit_temperature
from ghostzoo.images.decode import read_image
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess
from ghostzoo.network.architecture import Architecture

pytestmark = pytest.mark.slow

FEW = ("--width=0.1", "--teacher-steps=12", "--teacher-batch=16", "--teacher-size=32", "--steps=12", "--batch-size=16")
SMALL = ("--image-size=32", "--resize-short=36", "--val-split=0.2", "--device=cpu")


def distil(weights: Path, data: Path, out: Path, *more: Any) -> Result:
    return CliRunner().invoke(
        main, ["distil", str(weights), "--data", str(data), "--out", str(out), *FEW, *SMALL, *map(str, more)]
    )


def test_a_run_of_steps_is_repeatable_and_ends_as_a_bundle(weights: Path, pictures: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        result = distil(weights, pictures, tmp_path / name, "--teacher-rate=0.003")
        assert result.exit_code == 0, result.stderr
    one, two = ((tmp_path / name / "weights.pdparams").read_bytes() for name in ("one", "two"))
    assert one == two
    facts = Bundle.open(tmp_path / "one/bundle").manifest.validation
    assert facts["teacher_steps"] == facts["steps"] == 12
    assert json.loads((tmp_path / "one/run.json").read_text())["recipe"]["views"]["smallest"] > 0


def test_time_or_steps_end_a_schedule() -> None:
    steps = list(Budget(0.05))
    assert len(steps) > 1
    assert list(Budget(1000, steps=3)) == [0, 1, 2]
    budget = Budget(1, steps=100)
    rates = [budget.rate for _ in budget]
    assert max(rates) > 0.99
    assert rates[-1] < 0.01 < rates[0] < 0.1


def test_images_of_several_sizes_are_refused(weights: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(10):
            picture = np.zeros((32, 32 + index, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "data" / name / f"{index}.png"), picture)
    result = distil(weights, tmp_path / "data", tmp_path / "out")
    assert result.exit_code != 0
    assert "differ in size" in str(result.stderr) + str(result.exception)


def test_views_of_two_sizes_show_the_same() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 3, 4, 4), np.uint8))
    small, large = Views(pixels, Strengths(), seed=0).draw(pixels, 32, 96)
    assert torch.nn.functional.avg_pool2d(large, 3).sub(small).abs().mean() < 0.02
    assert small.sub(small[:, :, :, :1]).abs().mean() > 0.02


def test_mixed_targets_tell_the_shares_of_mixed_views() -> None:
    pixels = torch.zeros(16, 3, 8, 8, dtype=torch.uint8)
    views, kinds = Views(pixels, Strengths(), seed=0), set()
    ramp = torch.arange(16.0)
    for _ in range(12):
        x = (ramp / 15).view(-1, 1, 1, 1).expand(16, 3, 64, 64)
        targets, (mixed, coarse) = views.mix(torch.eye(16), x, x[:, :, ::2, ::2])
        shares = targets @ (ramp / 15)
        assert mixed.mean(dim=(1, 2, 3)) == pytest.approx(shares, abs=1e-5)
        assert coarse.mean(dim=(1, 2, 3)) == pytest.approx(shares, abs=0.1)
        kinds.add((bool((targets.max(1).values < 1).any()), bool(mixed.std(dim=(1, 2, 3)).max() > 0.01)))
    assert kinds == {(False, False), (True, False), (True, True)}


def test_degraded_views_keep_what_is_coarse() -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (64, 3, 32, 32), np.uint8))
    x = torch.full((64, 3, 96, 96), 0.5)
    y = Views(pixels, Strengths(), seed=0).degrade(x)
    assert y.min() >= 0
    assert y.max() <= 1
    assert y.mean(dim=(1, 2, 3)) == pytest.approx(x.mean(dim=(1, 2, 3)), abs=0.02)
    changed = (y.std(dim=(1, 2, 3)) > 1e-3).float().mean()
    assert 0.2 < changed < 0.7


def test_a_frozen_teacher_answers_as_before(weights: Path) -> None:
    network = EfficientNetLite(read_state(weights), 5).eval()
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = network.feature(x)
    assert frozen(network).feature(x) == pytest.approx(expected, abs=1e-4 * float(expected.abs().max()))


def test_images_are_measured_as_at_inference(pictures: Path) -> None:
    picture = read_image(next(pictures.rglob("*.png")).read_bytes())
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.mean(dim=(2, 3))

    logits_of(network, torch.from_numpy(picture).permute(2, 0, 1)[None], 73, 64)
    config = Preprocessing(resize_short=73, crop_size=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert seen[0][0].numpy() == pytest.approx(preprocess(picture, config), abs=1.1 / 255)


def test_a_calibrated_head_has_temperature_one() -> None:
    torch.manual_seed(0)
    network = GhostNet(Architecture.of(0.1, 4)).eval()
    torch.nn.init.normal_(network.fc_1.weight, std=0.2)
    x = torch.randn(200, 3, 32, 32)
    with torch.no_grad():
        before = network(x)
        labels = torch.distributions.Categorical(logits=before / 3).sample()
        temperature = calibrate_head(network, before, labels)
        after = network(x)
    assert temperature == pytest.approx(3, rel=0.35)
    assert fit_temperature(after.numpy(), labels.numpy()) == pytest.approx(1, abs=1e-3)
    assert (after.argmax(1) == before.argmax(1)).all()


def test_the_moving_average_covers_weights_and_statistics() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    average = MovingAverage(network, 0.75)
    with torch.no_grad():
        network[0].weight.fill_(5)
        network[0].running_mean.fill_(8)
    average.update()
    assert average.module[0].weight.tolist() == [2, 2]
    assert average.module[0].running_mean.tolist() == [2, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need an NVIDIA GPU")
def test_a_recorded_step_computes_what_the_first_did() -> None:
    found = []
    for record in (False, True):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2)).cuda()
        inputs = [torch.randn(4, 3, 8, 8, device="cuda") for _ in range(3)]
        network(inputs[0])
        step = Step(lambda x, network=network: network(x).square().mean(), network, 5.0, record=record)
        losses = [step(x).item() for x in inputs]
        found.append((losses, network[0].weight.grad.sum().item()))
    for recorded, computed in zip(found[1], found[0], strict=True):
        assert recorded == pytest.approx(computed, rel=1e-4)

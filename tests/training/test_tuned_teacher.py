from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result

from exporters.cli import main
from exporters.efficientnet_lite import build_efficientnet_lite, read_state
from exporters.efficientnet_lite_torch import EfficientNetLite
from ghostzoo.errors import WeightsError
from tests.training.runs import train

pytestmark = pytest.mark.slow

FEATURES = 1280


def make(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["teacher", *map(str, arguments)])


@pytest.mark.parametrize("size", [48, 45])
def test_graph_and_network_compute_the_same(weights: Path, size: int) -> None:
    arrays = read_state(weights)
    network = EfficientNetLite(arrays, 5).eval()
    with torch.no_grad():
        network.fc.weight.copy_(torch.from_numpy(arrays["_fc.weight"]))
        network.fc.bias.copy_(torch.from_numpy(arrays["_fc.bias"]))
    x = np.random.default_rng(1).normal(0, 1, (2, 3, size, size)).astype(np.float32)
    model = build_efficientnet_lite(network.arrays()).SerializeToString()
    feature, logits = onnxruntime.InferenceSession(model).run(["feature", "logits"], {"pixel_values": x})
    assert feature.shape == (2, FEATURES)
    expected = network(torch.from_numpy(x)).detach().numpy()
    assert logits == pytest.approx(expected, abs=1e-5 * float(np.abs(expected).max()))


def test_a_tuned_teacher_knows_the_classes_and_teaches(weights: Path, pictures: Path, tmp_path: Path) -> None:
    tuning = ("--tune", pictures, "--val-split", 0.2, "--image-size", 32, "--epochs", 8, "--batch-size", 8)
    result = make(weights, "--out", tmp_path / "tuned", *tuning, "--learning-rate", 0.003)
    assert result.exit_code == 0, result.stderr
    found = [line for line in result.stderr.splitlines() if "held-out images" in line]
    assert float(found[0].split()[1]) > 0.6
    description = json.loads((tmp_path / "tuned" / "teacher.json").read_text())
    assert (description["feature"], description["logits"], description["image_size"]) == ("feature", "logits", 32)
    record = json.loads((tmp_path / "tuned" / "run.json").read_text())
    assert record["command"].startswith(f"python -m exporters teacher {weights} --out")
    assert record["recipe"]["epochs"] == 8
    options = ("--teacher", tmp_path / "tuned" / "teacher.json", "--feature-weight=1", "--epochs=1")
    run = train("--data", pictures, "--out", tmp_path / "run", *options).check()
    right = next(line for line in run.stderr.splitlines() if "the teacher is right on" in line)
    assert float(right.split("on ")[1].split("%")[0]) > 60


def test_tuning_goes_on_from_its_checkpoint(weights: Path, pictures: Path, tmp_path: Path) -> None:
    options = ("--tune", pictures, "--image-size", 32, "--batch-size", 60)
    assert make(weights, "--out", tmp_path / "run", *options).exit_code == 0
    again = make(weights, "--out", tmp_path / "run", *options, "--resume")
    assert again.exit_code == 0, again.stderr
    assert "step" not in again.stderr  # all were done
    other = make(weights, "--out", tmp_path / "run", *options, "--resume", "--seed", 5)
    assert "holds another run" in other.stderr
    none = make(weights, "--out", tmp_path / "none", *options, "--resume")
    assert "holds no checkpoint.pt" in none.stderr


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="not an EfficientNet-Lite"):
        read_state(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(WeightsError, match="not a PyTorch state dict"):
        read_state(tmp_path / "text.pth")

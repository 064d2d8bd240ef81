from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import ghostzoo
from exporters.training.checkpoint import load_checkpoint
from exporters.training.reporting import COLUMNS
from ghostzoo.bundle.folder import Bundle
from ghostzoo.parity import EXACT_TOLERANCE, compare_logits
from ghostzoo.weights.params import read_weights
from tests.training.runs import ROOT, train

pytestmark = pytest.mark.slow


def test_written_weights_are_the_moving_average(finished: Path) -> None:
    weights = read_weights(finished / "weights.pdparams", width=0.1, num_classes=3)
    average = load_checkpoint(finished)["average"]
    assert np.array_equal(weights.arrays["fc_1.weight"], average["module.fc_1.weight"].numpy().T)
    mean = average["module.conv1._batch_norm.running_mean"].numpy()
    assert np.array_equal(weights.arrays["conv1._batch_norm._mean"], mean)


def test_the_bundle_is_loaded_and_is_the_trained_network(finished: Path, pictures: Path) -> None:
    classifier = ghostzoo.load(finished / "bundle")
    agreement = classifier.self_check()
    assert agreement.within(1e-5)
    assert [label.label for label in classifier.bundle.labels] == ["disc", "plain", "stripes"]
    assert classifier.bundle.name == "shapes-run"
    assert classifier.bundle.preprocessing.crop_size == 32
    assert classifier.bundle.preprocessing.resize_short == round(32 * 256 / 224)
    assert {p.label for p in classifier(pictures / "disc" / "00.png")} == {"disc", "plain", "stripes"}


def test_the_figure_of_the_card_is_what_the_runtime_measures(pictures: Path, tmp_path: Path) -> None:
    """The whole training data as validation data: the bundle's answers give the accuracy that the run reported."""
    train("--data", pictures, "--val", pictures, "--out", tmp_path / "run", "--epochs=2").check()
    classifier = ghostzoo.load(tmp_path / "run" / "bundle")
    files = sorted(pictures.rglob("*.png"))
    right = [classifier(file, top_k=1)[0].label == file.parent.name for file in files]
    validation = classifier.bundle.manifest.validation
    assert validation["validation_accuracy"] == pytest.approx(sum(right) / len(files))
    assert any(right)
    assert f"- validation accuracy: {sum(right) / len(files):.4g}" in (tmp_path / "run/bundle/README.md").read_text()


def test_card_and_manifest_say_data_command_seed_and_result(finished: Path, pictures: Path) -> None:
    card = (finished / "bundle" / "README.md").read_text()
    last = dict(zip(COLUMNS, (finished / "metrics.csv").read_text().splitlines()[-1].split(","), strict=True))
    assert "python -m exporters train --width=0.1 --image-size=32 --batch-size=8" in card
    assert f"--data {pictures}" in card
    assert "--seed=3" in card
    assert "with seed 3" in card
    assert '"mixup": 0.2' in card
    for line in (
        "- training data: shapes",
        "- classes: 3",
        "- training images: 96",
        "- validation images: 24",
        "- starting point: random weights",
        f"- validation accuracy: {float(last['validation_accuracy']):.4g}",
    ):
        assert line in card
    manifest = Bundle.open(finished / "bundle").manifest
    assert manifest.validation["validation_accuracy"] == float(last["validation_accuracy"])
    assert manifest.validation["golden_check"]["logits"]["top5_equal"] is True
    assert manifest.created_by["torch"] == torch.__version__


def test_metrics_have_one_row_per_epoch(finished: Path) -> None:
    header, *rows = [line.split(",") for line in (finished / "metrics.csv").read_text().splitlines()]
    assert tuple(header) == COLUMNS
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [row[1] for row in rows] == ["40", "32", "32"]
    assert all(float(value) >= 0 for row in rows for value in row)
    assert float(rows[-1][2]) == 0  # the cosine's end


def test_the_curves_are_a_picture(finished: Path) -> None:
    picture = cv2.imread(str(finished / "curves.png"))
    assert picture.shape[:2] == (480, 1200)
    assert picture.std() > 5


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed; its logs are optional")
def test_tensorboard_finds_the_metrics(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(COLUMNS) - {"epoch"}
    assert [event.step for event in events.Scalars("validation_accuracy")] == [1, 2, 3]


def test_the_run_folder_holds_these_things_and_nothing_else(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()} - {"tensorboard"}
    results = {"bundle", "curves.png", "last.pdparams", "metrics.csv", "weights.pdparams"}
    assert names == results | {"checkpoint.pt", "run.json"}
    assert json.loads((finished / "run.json").read_text())["recipe"]["seed"] == 3


def test_without_matplotlib_everything_but_the_curves_is_written(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it fails
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    run = train("--data", pictures, "--out", tmp_path / "run", "--epochs=1").check()
    assert "curves.png was not drawn" in run.stderr
    assert (tmp_path / "run" / "bundle" / "ghostzoo.json").exists()
    assert (tmp_path / "run" / "weights.pdparams").exists()
    assert not (tmp_path / "run" / "curves.png").exists()


def test_a_file_in_the_place_of_the_folder_is_one_clear_error(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    message = train("--data", pictures, "--out", tmp_path / "run", "--epochs=1").error()
    assert str(tmp_path / "run") in message
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder_is_refused_before_training(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o555)
    assert "cannot be used" in train("--data", pictures, "--out", tmp_path / "run", "--epochs=1").error()


def test_full_disk_is_one_error_and_keeps_the_checkpoint(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters.training import reporting

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(reporting, "write_atomically", full)
    run = train("--data", pictures, "--out", tmp_path / "run", "--epochs=1", "--quiet")
    assert "metrics.csv cannot be used: No space left on device" in run.error()
    monkeypatch.undo()
    train("--data", pictures, "--out", tmp_path / "run", "--epochs=1", "--resume").check()


def test_foreign_bundle_folder_is_refused_before_training(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "bundle").mkdir(parents=True)
    (tmp_path / "run" / "bundle" / "thesis.txt").write_text("mine")
    message = train("--data", pictures, "--out", tmp_path / "run", "--epochs=1").error()
    assert "exists and is not a bundle" in message
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_invalid_model_name_is_refused_before_training(pictures: Path, tmp_path: Path) -> None:
    message = train("--data", pictures, "--out", tmp_path / "my run", "--epochs=1").error()
    assert "'my run' cannot name a model" in message
    assert not (tmp_path / "my run").exists()


def test_diverging_run_is_one_error_and_writes_no_results(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--epochs=6", "--learning-rate=100", "--weight-decay=1", "--warmup-epochs=0", "--quiet")
    message = train("--data", pictures, "--out", out, *options).error()
    assert "The loss diverged in epoch " in message
    assert "lower --learning-rate" in message
    assert not (out / "weights.pdparams").exists()
    assert not (out / "bundle").exists()
    if (out / "checkpoint.pt").exists():
        weights = load_checkpoint(out)["network"].values()
        assert all(bool(torch.isfinite(tensor).all()) for tensor in weights)


def test_log_lines_show_the_data_and_each_epoch(pictures: Path, tmp_path: Path) -> None:
    run = train("--data", pictures, "--val-split=0.1", "--out", tmp_path / "run", "--epochs=2").check()
    lines = run.stderr.splitlines()
    assert lines[0] == "3 classes, 108 training images, 12 validation images"
    assert [line.split("  ")[0] for line in lines[1:3]] == ["epoch 1/2", "epoch 2/2"]
    assert re.search(r"validation loss \d+\.\d{3}  accuracy \d\.\d{3}$", lines[1])
    assert lines[-1] == f"wrote {tmp_path / 'run' / 'weights.pdparams'} and {tmp_path / 'run' / 'bundle'}"
    assert run.stdout == ""


_PADDLE_FORWARD = """
import sys, numpy, paddle
from exporters.paddle_network import build_network, forward
from ghostzoo.network.architecture import Architecture
state = {key: value.numpy() for key, value in paddle.load(sys.argv[1]).items()}
network = build_network(state, Architecture.of(0.1, 3))
numpy.save(sys.argv[3], forward(network, numpy.load(sys.argv[2])["pixel_values"])[0])
"""


def test_paddle_reads_the_weights_and_gives_the_same_answers(finished: Path, tmp_path: Path) -> None:
    python = os.environ.get("GHOSTZOO_PADDLE_PYTHON")
    if not python:
        pytest.skip("GHOSTZOO_PADDLE_PYTHON names no Python with PaddlePaddle; make test sets it")
    golden = finished / "bundle" / "golden.npz"
    subprocess.run(
        [python, "-c", _PADDLE_FORWARD, finished / "weights.pdparams", golden, tmp_path / "logits.npy"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    assert compare_logits(np.load(golden)["logits"], np.load(tmp_path / "logits.npy")).within(EXACT_TOLERANCE)

"""The model that comes with the package: no network, no weights, no option."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ghostzoo
from ghostzoo.catalog import DEFAULT_MODEL, get_model
from ghostzoo.fetch.resolver import fetch
from ghostzoo.loading import announce_bundled
from ghostzoo.parity import EXACT_TOLERANCE

CAT = Path(__file__).parents[1] / "examples" / "chelsea.png"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def predict(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ghostzoo", "predict", *map(str, arguments), "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(CAT.parents[1])}
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=cwd, env=environment)


def test_the_bundle_is_what_the_catalog_says() -> None:
    bundle, record = fetch(), get_model(DEFAULT_MODEL)
    assert (bundle.name, bundle.origin) == (DEFAULT_MODEL, "embedded")
    assert bundle.config.width == record.width
    assert bundle.preprocessing == record.preprocessing
    assert [label.label for label in bundle.labels] == CLASSES
    assert fetch(DEFAULT_MODEL) == bundle


def test_it_computes_here_what_the_trained_network_computed() -> None:
    with ghostzoo.load(DEFAULT_MODEL, threads=1) as classifier:
        assert classifier.self_check().within(EXACT_TOLERANCE)


def test_the_default_model_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    announce_bundled.cache_clear()  # another test may have been first in this process
    with caplog.at_level(logging.WARNING, logger="ghostzoo"):
        for _ in range(2):
            with ghostzoo.load(threads=1) as classifier:
                assert classifier.bundle.name == DEFAULT_MODEL
                assert {prediction.label for prediction in classifier(CAT, top_k=10)} == set(CLASSES)
    (record,) = caplog.records
    assert f"{DEFAULT_MODEL} (10 classes)" in record.getMessage()
    assert len(record.getMessage()) < 80


def test_a_model_that_was_named_needs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    ghostzoo.load(DEFAULT_MODEL, threads=1).close()
    assert not caplog.records


def test_the_command_line_answers_on_stdout_and_warns_on_stderr(tmp_path: Path) -> None:
    result = predict(CAT, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "cat" in result.stdout
    assert "bundled" not in result.stdout
    assert result.stderr.count("\n") == 1
    assert f"{DEFAULT_MODEL} (10 classes)" in result.stderr
    assert predict(CAT, "--model", DEFAULT_MODEL, cwd=tmp_path).stderr == ""


@pytest.mark.parametrize("arguments", [["missing.jpg"], ["missing.jpg", "gone.jpg"], [CAT, "--precision", "int8"]])
def test_no_notice_stands_before_an_error(arguments: list[object], tmp_path: Path) -> None:
    result = predict(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert "bundled" not in result.stderr


def test_a_folder_of_its_name_does_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / DEFAULT_MODEL).mkdir()  # as a training run with the command of the card makes it
    assert predict(CAT, cwd=tmp_path).returncode == 0


def test_the_example_weights_and_card_are_the_bundles() -> None:
    bundle, measured = fetch(), get_model(DEFAULT_MODEL).measured
    assert measured is not None
    assert bundle.manifest.validation["measured"] == {
        "top1": measured.top1,
        "top5": measured.top5,
        "images": measured.images,
        "data": measured.data,
        "photographs": measured.photographs,
    }
    card = bundle.read("README.md").decode()
    assert f"Top-1 {measured.top1:.4f}" in card
    assert measured.photographs in card
    assert "python -m exporters train --data cifar10-train.tar" in card
    weights = (CAT.parent / f"{DEFAULT_MODEL}.pdparams").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == bundle.manifest.weights["sha256"]

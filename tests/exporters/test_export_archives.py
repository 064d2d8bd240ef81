"""Inference archives of PaddleClas, exported: the same network as of its weights, proven on the archive's program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ghostzoo
from tests.exporters.conftest import run

pytestmark = pytest.mark.slow


def test_an_archive_becomes_the_same_network(archive: Path, weights: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    result = run("export", "--model", "GhostNet_x0_5", "--archive", archive, "--images", images, "--out", out)
    assert result.returncode == 0, result.stderr
    bundle = ghostzoo.Bundle.open(out)
    comparison = bundle.manifest.validation["paddle_comparison"]
    assert comparison["reference"] == "archive program"
    assert set(comparison["routes"]) == {"Paddle forward", "paddle2onnx graph", "ghostzoo graph"}
    assert all(route["relative"] <= 1e-5 for route in comparison["routes"].values())
    assert bundle.manifest.validation["softmax_difference"] <= 1e-6
    assert bundle.manifest.weights["source_url"].endswith("/inference/GhostNet_x0_5_infer.tar")
    converted = ghostzoo.convert(weights, tmp_path / "converted", model="GhostNet_x0_5")
    with ghostzoo.load(out, threads=1) as one, ghostzoo.load(converted.path, threads=1) as other:
        np.testing.assert_array_equal(one.logits(images), other.logits(images))


def test_an_archive_that_ends_in_a_sigmoid_is_multi_label(
    multi_label_archive: Path, images: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{index} tag {index}\n" for index in range(1000)))
    source = ["--archive", multi_label_archive, "--images", images]
    result = run("export", "--name", "tags", "--labels", labels, *source, "--out", tmp_path / "tags")
    assert result.returncode == 0, result.stderr
    bundle = ghostzoo.Bundle.open(tmp_path / "tags")
    assert bundle.postprocessing.multi_label
    assert 0 < bundle.manifest.validation["sigmoid_difference"] <= 1e-6
    with ghostzoo.load(bundle.path, threads=1) as classifier:
        np.testing.assert_allclose(
            classifier.probabilities(images), 1 / (1 + np.exp(-classifier.logits(images))), atol=1e-6
        )


def test_a_softmax_is_no_multi_label_model(archive: Path, images: Path, tmp_path: Path) -> None:
    source = ["--archive", archive, "--images", images]
    result = run("export", "--model", "GhostNet_x0_5", *source, "--multi-label", "--out", tmp_path / "tags")
    assert result.returncode == 1
    assert "ends in a softmax: it is not a multi-label model" in result.stderr
    assert not (tmp_path / "tags").exists()

"""Models that find any number of classes in an image: converted, told of, and asked."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ghostzoo
from ghostzoo import Classifier
from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import CARD_FILE, Bundle
from ghostzoo.errors import OptionError

EVERYTHING = 1e-9
"""Less than any score of the tiny network."""


@pytest.fixture(scope="module")
def classifier(multi_label_bundle: Bundle) -> Iterator[Classifier]:
    with ghostzoo.load(multi_label_bundle.path, engine="onnxruntime", threads=1) as clf:
        yield clf


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    grids = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
    paths = [folder / f"{index}.png" for index in range(len(grids))]
    for path, grid in zip(paths, grids, strict=True):
        cv2.imwrite(str(path), cv2.resize(grid, (90, 70)))
    return paths


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ghostzoo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_each_score_is_a_sigmoid_and_one_half_decides(classifier: Classifier, pictures: list[Path]) -> None:
    probabilities = classifier.probabilities(pictures)
    logits = classifier.logits(pictures).astype(float)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6)
    results = list(classifier.predict(pictures))
    assert {len(found) for found in results} != {0}
    for row, found in zip(probabilities, results, strict=True):
        expected = [index for index in np.argsort(-row, kind="stable").tolist() if row[index] >= 0.5]
        assert [each.index for each in found] == expected
        assert [each.score for each in found] == row[expected].tolist()


def test_the_caller_chooses_how_many_and_from_which_score(classifier: Classifier, pictures: list[Path]) -> None:
    everything = list(classifier.predict(pictures, min_score=EVERYTHING))
    assert {len(found) for found in everything} == {7}
    assert [found[:2] for found in everything] == list(classifier.predict(pictures, 2, min_score=EVERYTHING))
    assert list(classifier.predict(pictures, min_score=1)) == [[]] * len(pictures)
    lowest = everything[0][3].score
    assert classifier(pictures[0], min_score=lowest) == everything[0][:4]
    assert asyncio.run(classifier.apredict(pictures[0], 3, min_score=lowest)) == everything[0][:3]


def test_min_score_works_for_other_models_too(tiny_bundle: Bundle, pictures: list[Path]) -> None:
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as clf:
        five = clf(pictures[0])
        assert len(five) == 5
        assert clf(pictures[0], min_score=five[2].score) == five[:3]
        assert next(clf.predict(pictures, min_score=0.999)) == []


@pytest.mark.parametrize("value", [-1, 2, float("nan"), "0.5", True])
def test_a_wrong_min_score_is_refused_at_once(classifier: Classifier, pictures: list[Path], value: Any) -> None:
    for call in (classifier, classifier.predict):
        with pytest.raises(OptionError, match="min_score must be a number from 0 to 1"):
            call(pictures[0], min_score=value)


def test_the_bundle_says_it_in_every_place(multi_label_bundle: Bundle, tmp_path: Path) -> None:
    manifest = json.loads((multi_label_bundle.path / "ghostzoo.json").read_text())
    assert (manifest["multi_label"], manifest["format_version"]) == (True, 2)
    config = json.loads((multi_label_bundle.path / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    card = (multi_label_bundle.path / CARD_FILE).read_text()
    assert "multi-label image classifier" in card
    assert "| scores | sigmoid of each logit" in card
    contents = {name: multi_label_bundle.read(name) for name in multi_label_bundle.manifest.files}
    copy = write_bundle(tmp_path / "copy", name="copy", contents=contents, weights={}, created_by={}, validation={})
    assert copy.manifest.multi_label


def test_the_command_line_converts_tells_and_predicts(
    multi_label_bundle: Bundle, classifier: Classifier, pictures: list[Path], tmp_path: Path
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{index} class-{index}\n" for index in range(7)))
    weights, out = multi_label_bundle.path.with_suffix(".pdparams"), tmp_path / "tags"
    sizes = ["--resize-short", 72, "--crop-size", 64]
    options = ["--name", "tags", "--weights", weights, "--labels", labels, "--multi-label", "--out", out]
    assert run("convert", *options, *sizes).returncode == 0
    assert json.loads(run("info", out, "--json").stdout)["multi_label"] is True

    result = run("predict", *pictures, "--model", out, "--json", "--engine", "onnxruntime")
    rows = [json.loads(line)["predictions"] for line in result.stdout.splitlines()]
    assert rows == [[each.to_dict() for each in found] for found in classifier.predict(pictures)]

    nothing = ["predict", pictures[0], pictures[1], "--model", out, "--min-score", 1]
    assert run(*nothing).stdout.count("no class") == 2
    found = list(csv.DictReader(io.StringIO(run(*nothing, "--csv").stdout)))
    assert [(row["image"], row["label"]) for row in found] == [(str(path), "") for path in pictures[:2]]
    assert run(*nothing[:-1], 1.5).returncode == 2

"""Multi-label models measured: the figures are those of other definitions of the same."""

from __future__ import annotations

import csv
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
from ghostzoo import Classifier, InputError
from ghostzoo.bundle.folder import Bundle
from ghostzoo.evaluation.evaluate import Proportion, open_labelled, take_evenly
from ghostzoo.evaluation.multi_label import average_precision, evaluate_multi_label, open_multi_label
from ghostzoo.evaluation.report import write_report

IMAGES = 24


@pytest.fixture(scope="module")
def classifier(multi_label_bundle: Bundle) -> Iterator[Classifier]:
    with ghostzoo.load(multi_label_bundle.path, engine="onnxruntime", threads=1) as clf:
        yield clf


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Which of the classes each image shows; none shows the last one."""
    shown = np.random.default_rng(1).random((IMAGES, 7)) < 0.4
    shown[:, 6] = False
    return shown


@pytest.fixture
def listing(tmp_path: Path, truth: np.ndarray) -> Path:
    """A list file as PaddleClas reads it, with its images beside it."""
    grids = np.random.default_rng(0).integers(0, 256, (IMAGES, 4, 5, 3), np.uint8)
    lines = []
    for index, (grid, shown) in enumerate(zip(grids, truth, strict=True)):
        cv2.imwrite(str(tmp_path / f"{index} a.png"), cv2.resize(grid, (90, 70)))
        lines.append(f"{index} a.png\t{','.join(map(str, shown.astype(int)))}\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    return tmp_path / "list.txt"


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ghostzoo", *map(str, arguments)], capture_output=True, text=True)


def precision_at_each_hit(scores: np.ndarray, truth: np.ndarray) -> float:
    """Average precision as textbooks have it, for scores that all differ: no curve and no area."""
    ranked = [bool(truth[index]) for index in sorted(range(len(scores)), key=lambda index: -scores[index])]
    hits = [rank for rank, is_hit in enumerate(ranked, start=1) if is_hit]
    return sum(number / rank for number, rank in enumerate(hits, start=1)) / len(hits)


def test_average_precision_is_the_textbooks() -> None:
    assert average_precision(np.float32([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == pytest.approx(
        (1 / 1 + 2 / 3) / 2
    )
    rng = np.random.default_rng(0)
    for count in (1, 2, 10, 300):
        scores, truth = rng.permutation(count).astype(np.float32), rng.random(count) < 0.3
        truth[0] = True
        assert average_precision(scores, truth) == pytest.approx(precision_at_each_hit(scores, truth))
    assert np.isnan(average_precision(np.float32([1, 2]), np.array([False, False])))


def test_the_order_of_images_with_equal_scores_does_not_count() -> None:
    scores, truth = np.float32([0.5, 0.5, 0.5, 0.2]), np.array([True, False, False, True])
    for order in ([0, 1, 2, 3], [1, 2, 0, 3], [3, 2, 1, 0]):
        assert average_precision(scores[order], truth[order]) == pytest.approx((1 / 3 + 2 / 4) / 2)


@pytest.mark.parametrize("threshold", [None, 0.35])
def test_figures_are_those_counted_by_hand(
    classifier: Classifier, listing: Path, truth: np.ndarray, threshold: float | None
) -> None:
    dataset = open_multi_label(listing, classifier.bundle.labels)
    result = evaluate_multi_label(classifier, dataset, min_score=threshold)
    scores = classifier.probabilities([sample.path for sample in dataset.samples])
    said = scores >= (threshold or 0.5)
    each = [precision_at_each_hit(scores[:, index], truth[:, index]) for index in range(6)]
    assert result.average_precision[:6] == pytest.approx(each)
    assert result.mean_average_precision == pytest.approx(np.mean(each))
    both, wrong = int((said & truth).sum()), int((said != truth).sum())
    assert both > 0
    assert result.micro_f1 == pytest.approx(2 * both / (2 * both + wrong))
    per_class = [
        2 * (said & truth)[:, index].sum() / (said[:, index].sum() + truth[:, index].sum())
        for index in range(7)
        if said[:, index].any() or truth[:, index].any()
    ]
    assert result.macro_f1 == pytest.approx(np.mean(per_class))
    for index in range(7):
        right = int((said & truth)[:, index].sum())
        assert result.class_recall(index) == Proportion(right, int(truth[:, index].sum()))
        assert result.class_precision(index) == Proportion(right, int(said[:, index].sum()))


def test_the_command_measures_and_reports(multi_label_bundle: Bundle, listing: Path, tmp_path: Path) -> None:
    options = ["eval", "--model", multi_label_bundle.path, "--data", listing, "--engine", "onnxruntime"]
    for leftover in ("confusion.png", "mistakes.png"):
        (tmp_path / "report").mkdir(exist_ok=True)
        (tmp_path / "report" / leftover).write_bytes(b"of an older report")
    (tmp_path / "3 a.png").write_bytes(b"no image")
    result = run(*options, "--json", "--out", tmp_path / "report")
    assert result.returncode == 1
    assert "3 a.png" in result.stderr
    assert "Wrote report.json, classes.csv" in result.stderr
    facts = json.loads(result.stdout)
    assert (facts["images"], facts["threshold"]) == (IMAGES - 1, 0.5)
    assert json.loads((tmp_path / "report" / "report.json").read_text())["micro_f1"] == facts["micro_f1"]
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["classes.csv", "report.json"]
    rows = list(csv.DictReader((tmp_path / "report" / "classes.csv").open()))
    assert float(rows[0]["average_precision"]) == facts["classes"][0]["average_precision"]
    table = run(*options, "--min-score", 0.3, "--limit", 2).stdout
    assert "mean average precision" in table
    assert "F1 from 0.3 on" in table


def test_a_limit_takes_images_with_their_classes(classifier: Classifier, listing: Path, truth: np.ndarray) -> None:
    dataset = take_evenly(open_multi_label(listing, classifier.bundle.labels), 3)
    assert [sample.shown for sample in dataset.samples] == [
        tuple(np.flatnonzero(truth[index]).tolist()) for index in (0, 8, 16)
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a.png 3", "expected '<path><tab>0,1,0"),
        ("a.png\t0,1,0", "a.png has 3 values, and the model 7 classes"),
        ("a.png\t0,1,0,0,0,0,2", "expected"),
        ("a.png\t0,1,0,0,0,0,", "expected"),
        ("a.png\t", "expected"),
        ("0,1,0,0,0,0,0", "expected"),
    ],
)
def test_another_line_is_named(classifier: Classifier, tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "list.txt").write_text(f"b.png\t0,1,0,0,0,0,0\n\n{line}\n")
    with pytest.raises(InputError, match=rf"list.txt: {reason}"):
        open_multi_label(tmp_path / "list.txt", classifier.bundle.labels)


def test_data_of_the_other_kind_is_told(classifier: Classifier, tiny_bundle: Bundle, listing: Path) -> None:
    for path in (listing.parent, listing.parent / "0 a.png", listing.parent / "missing.txt"):
        with pytest.raises(InputError, match=r"multi-label one.* '<path><tab>0,1,0,...' for each image"):
            open_multi_label(path, classifier.bundle.labels)
    with pytest.raises(InputError, match=r"expected '<path> <class index>'"):
        open_labelled(listing, classifier.bundle.labels)
    result = run("eval", "--model", tiny_bundle.path, "--data", listing, "--min-score", 0.5, "--engine", "onnxruntime")
    assert result.returncode == 1
    assert "tiny is not a multi-label model; leave out --min-score" in result.stderr


def test_nothing_to_find_and_nothing_to_read_are_errors(classifier: Classifier, listing: Path, tmp_path: Path) -> None:
    listing.write_text("0 a.png\t0,0,0,0,0,0,0\n")
    with pytest.raises(InputError, match="shows any class"):
        evaluate_multi_label(classifier, open_multi_label(listing, classifier.bundle.labels))
    (tmp_path / "0 a.png").unlink()
    with pytest.raises(InputError, match="None of the 1 images"):
        evaluate_multi_label(classifier, open_multi_label(listing, classifier.bundle.labels))
    listing.write_text("\n")
    with pytest.raises(InputError, match="lists no images"):
        open_multi_label(listing, classifier.bundle.labels)


def test_the_report_needs_no_matplotlib(
    classifier: Classifier, listing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = evaluate_multi_label(classifier, open_multi_label(listing, classifier.bundle.labels))
    assert [path.name for path in write_report(result, tmp_path / "report")] == ["report.json", "classes.csv"]

"""The page ranks classes as the package does, without a browser."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ghostzoo.labels import ClassLabel
from ghostzoo.predictions import Postprocessing, Prediction, softmax, top_predictions
from ghostzoo.serve.page_files import PACKAGE

_CLASSES = 30
_COUNTS = (1, 2, 5, 29, 30, 40)


def test_the_page_ranks_as_the_package_does_ties_included(node: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    labels = [ClassLabel(f"class {index}") for index in range(_CLASSES)]
    logits = np.concatenate(
        [
            np.zeros((1, _CLASSES)),
            rng.integers(0, 3, (4, _CLASSES)),
            rng.normal(0, 4, (4, _CLASSES)),
            rng.normal(0, 90, (4, _CLASSES)),  # most probabilities are too small for float32, so they are all 0
            np.linspace(0, 1e-9, _CLASSES)[None],  # other logits, and the same probabilities
        ]
    ).astype(np.float32)
    case = {"logits": logits.tolist(), "labels": [{"label": each.label} for each in labels], "counts": _COUNTS}
    (tmp_path / "case.json").write_text(json.dumps(case))
    script = Path(__file__).with_name("scores.mjs")
    command = [node, script, PACKAGE / "scores.js", tmp_path / "case.json"]
    printed = subprocess.run(command, check=True, capture_output=True)
    found = json.loads(printed.stdout)
    for probabilities, answers in zip(softmax(logits), found["answers"], strict=True):
        for count, answer in zip(_COUNTS, answers, strict=True):
            _check(answer, top_predictions(probabilities, labels, count))
    several = Postprocessing(labels, multi_label=True).predictions(logits)
    for answer, expected in zip(found["several"], several, strict=True):
        _check(answer, expected)


def _check(answer: list[dict[str, Any]], expected: list[Prediction]) -> None:
    assert [each["index"] for each in answer] == [each.index for each in expected]
    assert [each["score"] for each in answer] == pytest.approx([each.score for each in expected], abs=1e-6)

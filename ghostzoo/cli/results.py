"""Predictions as text: a table or lines for people, JSON Lines and CSV for programs; and what could not be read."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import IO, Any

import click
from rich.cells import cell_len

from .._utils.spreadsheet import csv_row
from ..errors import ImageError
from ..predictions import SCORE_DECIMALS, Prediction
from .console import one_line, percent, printable, table_lines

CSV_COLUMNS = ("image", "rank", "index", "label", "score", "wnid")
NO_CLASS = "no class: its scores are too low, or it is unknown"
_WIDEST_INDENT = 48
"""Columns for names; what stands after a longer one moves to the right."""


class ResultWriter(ABC):
    """Writes one result after the other, so that nothing accumulates in memory."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    @abstractmethod
    def write(self, image: str, predictions: Sequence[Prediction]) -> None:
        """Write the classes of one image, best first."""

    @abstractmethod
    def write_error(self, error: ImageError) -> None:
        """Note an image that could not be read, where the format has a place for it."""


class TableWriter(ResultWriter):
    """A table for one image."""

    def write(self, image: str, predictions: Sequence[Prediction]) -> None:
        has_wnids = any(item.wnid for item in predictions)
        columns = ["score", "class", *(["wnid"] if has_wnids else []), "label"]  # the longest last
        rows = [
            [
                f"{item.score:.{SCORE_DECIMALS}f}",
                str(item.index),
                *([item.wnid or ""] if has_wnids else []),
                item.label if item.best is None else f"{item.label}: {item.best.label}",
            ]
            for item in predictions
        ]
        click.secho(printable(image), self.stream, bold=True)
        for line in table_lines(columns, rows) if rows else [NO_CLASS]:
            click.echo(line, self.stream)

    def write_error(self, error: ImageError) -> None:
        """People read the errors on stderr."""


class LineWriter(ResultWriter):
    """A line for each of several images: its name, and its classes with the first of their synonyms.

    Args:
        stream: where to.
        names: of all images; their classes stand below each other.
        columns: of the terminal, if classes that do not fit in the line are left out, all but the first.
    """

    def __init__(self, stream: IO[str], names: Iterable[str], columns: int | None) -> None:
        super().__init__(stream)
        self._indent = min(max(cell_len(printable(name)) for name in names), _WIDEST_INDENT)
        self._columns = columns

    def write(self, image: str, predictions: Sequence[Prediction]) -> None:
        name = printable(image)
        line = name + " " * (self._indent - cell_len(name))
        if not predictions:
            line += f"  {NO_CLASS}"
        for rank, item in enumerate(predictions):
            part = f"  {printable(item.label.partition(',')[0])} {percent(item.score)}"
            if rank and self._columns is not None and cell_len(line + part) > self._columns:
                break
            line += part
        click.echo(line, self.stream)

    def write_error(self, error: ImageError) -> None:
        """People read the errors on stderr."""


class JsonLinesWriter(ResultWriter):
    """A JSON object a line: ``image`` with ``predictions``, or with ``error``."""

    def write(self, image: str, predictions: Sequence[Prediction]) -> None:
        self._line({"image": image, "predictions": [prediction.to_dict() for prediction in predictions]})

    def write_error(self, error: ImageError) -> None:
        self._line({"image": error.source, "error": error.reason})

    def _line(self, content: dict[str, Any]) -> None:
        # ASCII escapes keep even undecodable file names intact, whatever the terminal's encoding.
        self.stream.write(json.dumps(content) + "\n")


class CsvWriter(ResultWriter):
    """A row for each image and class, below a header. Names that would be formulas get an apostrophe before them."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        self.stream.write(csv_row(CSV_COLUMNS))

    def write(self, image: str, predictions: Sequence[Prediction]) -> None:
        if not predictions:  # so that every image that was classified has a row
            self.stream.write(csv_row([image, *[""] * (len(CSV_COLUMNS) - 1)]))
        for rank, prediction in enumerate(predictions, start=1):
            row = prediction.to_dict()
            cells = [image, rank, *(row[name] for name in ("index", "label", "score")), row["wnid"] or ""]
            self.stream.write(csv_row(cells))

    def write_error(self, error: ImageError) -> None:
        """A CSV row is a class; errors stand on stderr only."""


def report_damaged(names: Sequence[str]) -> None:
    """Name on stderr the damaged images that were read leniently."""
    for name in names:
        click.echo(f"Damaged, read as far as possible: {printable(name)}", err=True)


def report_unreadable(failed: Sequence[ImageError], total: int, skipped: int) -> None:
    """Name the unreadable images and passed-over files on stderr; exit with 1 if an image could not be read."""
    if skipped:
        click.echo(f"Passed over {skipped} other file{'s' if skipped > 1 else ''} in the folders.", err=True)
    for error in failed:
        click.echo(f"Error: {one_line(error)}", err=True)
    if failed:
        if total > 1:
            click.echo(f"{len(failed)} of {total} images could not be read.", err=True)
        sys.exit(1)

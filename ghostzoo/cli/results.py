"""Predictions as text: tables for people, JSON lines and CSV for programs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import IO, Any

from .._utils.spreadsheet import csv_row
from ..errors import ImageError
from ..predictions import SCORE_DECIMALS, Prediction
from .console import printable, table_console

CSV_COLUMNS = ("image", "rank", "index", "label", "score", "wnid")


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
    """A small table for each image."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        self._console = table_console(stream)

    def write(self, image: str, predictions: Sequence[Prediction]) -> None:
        from rich.table import Table

        table = Table(title=printable(image), title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("score", justify="right")
        table.add_column("class", justify="right")
        table.add_column("label")
        table.add_column("wnid")
        for prediction in predictions:
            table.add_row(
                f"{prediction.score:.{SCORE_DECIMALS}f}",
                str(prediction.index),
                printable(prediction.label),
                printable(prediction.wnid or ""),
            )
        if not predictions:
            table.add_row("-", "", "no class reaches the lowest score that counts", "")
        self._console.print(table)
        self._console.print()

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

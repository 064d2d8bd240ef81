"""An evaluation as files: JSON, classes as CSV, the confusion matrix and the worst mistakes as pictures."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .._utils.files import write_atomically
from .._utils.plots import require_matplotlib
from .._utils.spreadsheet import csv_row
from ..errors import ImageError, InputError
from .evaluate import Evaluation, Mistake

REPORT_FILE = "report.json"
CLASSES_FILE = "classes.csv"
CONFUSION_FILE = "confusion.png"
MISTAKES_FILE = "mistakes.png"

_TILE = 160
_CAPTION = 34
_COLUMNS = 6
_NAMED_CLASSES = 40
"""More classes than this have no legible names beside the matrix."""


def check_folder(folder: Path) -> None:
    """Find out before the images are classified whether the report can be written; the folder is made.

    Raises:
        InputError: the folder cannot be written, or the library for the pictures is missing.
    """
    require_matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"Cannot write the report to {folder}: {error.strerror or error}.") from error


def write_report(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write all files of the report into ``folder`` (made if need be, older reports replaced); return their paths.

    Raises:
        InputError: the folder cannot be written.
    """
    contents = {
        REPORT_FILE: (json.dumps(evaluation.to_dict(), indent=2) + "\n").encode(),
        CLASSES_FILE: _class_table(evaluation).encode(),
        CONFUSION_FILE: confusion_picture(evaluation),
    }
    if evaluation.mistakes:
        contents[MISTAKES_FILE] = mistakes_picture(evaluation)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not evaluation.mistakes:
            (folder / MISTAKES_FILE).unlink(missing_ok=True)
        for name, data in contents.items():
            write_atomically(folder / name, data)
    except OSError as error:
        raise InputError(f"Cannot write the report to {folder}: {error.strerror or error}.") from error
    return [folder / name for name in contents]


def confusion_picture(evaluation: Evaluation) -> bytes:
    """Draw the confusion matrix, each row as shares of its class; a PNG."""
    figure_module = require_matplotlib()
    seen = np.flatnonzero(evaluation.confusion.sum(axis=0) + evaluation.confusion.sum(axis=1))
    counts = evaluation.confusion[np.ix_(seen, seen)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = len(seen) <= _NAMED_CLASSES
    side = 4 + 0.35 * len(seen) if named else 10
    figure = figure_module.Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the row's class")
    axes.set(xlabel="predicted", ylabel="true", title=f"{evaluation.model}: top-1 {evaluation.top1.value:.4f}")
    if named:
        names = [evaluation.labels[index].label.split(",")[0] for index in seen]
        axes.set_xticks(range(len(seen)), names, rotation=90)
        axes.set_yticks(range(len(seen)), names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] < 0.6 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def mistakes_picture(evaluation: Evaluation) -> bytes:
    """Lay out the most confident mistakes, each above what it is and what it was taken for; a PNG."""
    rows = -(-len(evaluation.mistakes) // _COLUMNS)
    sheet = np.full((rows * (_TILE + _CAPTION), _COLUMNS * _TILE, 3), 255, np.uint8)
    for place, mistake in enumerate(evaluation.mistakes):
        top, left = place // _COLUMNS * (_TILE + _CAPTION), place % _COLUMNS * _TILE
        sheet[top : top + _TILE, left : left + _TILE] = _thumbnail(evaluation, mistake)
        expected, predicted = (
            evaluation.labels[index].label.split(",")[0] for index in (mistake.expected, mistake.predicted)
        )
        for line, text in enumerate((f"is {expected}", f"said {predicted} {mistake.score:.2f}")):
            position = (left + 3, top + _TILE + 13 + 15 * line)
            cv2.putText(sheet, text[:26], position, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes()


def _thumbnail(evaluation: Evaluation, mistake: Mistake) -> NDArray[np.uint8]:
    """The image, fitted into a grey square."""
    tile = np.full((_TILE, _TILE, 3), 224, np.uint8)
    try:
        rgb = evaluation.read_image(mistake.sample.read())
    except ImageError:  # it was readable when it was classified; the grey square says that it is gone
        return tile
    scale = (_TILE - 4) / max(rgb.shape[:2])
    width, height = (max(1, round(side * scale)) for side in (rgb.shape[1], rgb.shape[0]))
    top, left = (_TILE - height) // 2, (_TILE - width) // 2
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    tile[top : top + height, left : left + width] = cv2.resize(rgb, (width, height), interpolation=interpolation)
    return tile


def _class_table(evaluation: Evaluation) -> str:
    rows = [csv_row(["index", "label", "images", "recall", "recall_low", "recall_high", "precision"])]
    for row in evaluation.to_dict()["classes"]:
        recall = row["recall"]
        shares = (recall["total"], recall["value"], *recall["interval"], row["precision"]["value"])
        rows.append(csv_row([row["index"], row["label"], *shares]))
    return "".join(rows)

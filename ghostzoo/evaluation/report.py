"""An evaluation as files: JSON, a CSV of the classes, and pictures of the confusion matrix and the worst mistakes."""

from __future__ import annotations

import io
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .._utils.files import write_atomically
from .._utils.plots import lettering, require_matplotlib, shortened
from .._utils.spreadsheet import csv_row
from ..errors import ImageError, InputError
from .calibrate import reliability_picture
from .evaluate import Evaluation, Mistake
from .multi_label import MultiLabelEvaluation

REPORT_FILE = "report.json"
CLASSES_FILE = "classes.csv"
CONFUSION_FILE = "confusion.png"
MISTAKES_FILE = "mistakes.png"
RELIABILITY_FILE = "reliability.png"

_TILE = 160
_CAPTION = 34
_COLUMNS = 6
_DPI = 100
_CAPTION_POINTS = 7.5
_CAPTION_COLUMNS = 23
_TICK_COLUMNS = 40
_NAMED_CLASSES = 40
"""So many classes have legible names beside the matrix; of more, every second or third or so is named."""

_log = logging.getLogger("ghostzoo")


def check_folder(folder: Path, *, pictures: bool = True) -> None:
    """Create the folder and check that a report can be written to it, before any image is classified.

    Args:
        folder: where it shall be.
        pictures: whether it has any, which a multi-label model's has not.

    Raises:
        InputError: the folder cannot be written, or matplotlib is not installed.
    """
    if pictures:
        require_matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"Cannot write the report to {folder}: {error.strerror or error}.") from error


def write_report(evaluation: Evaluation | MultiLabelEvaluation, folder: Path) -> list[Path]:
    """Write the report to ``folder``, which is created if needed; older reports are replaced. Return the paths.

    Raises:
        InputError: the folder cannot be written.
    """
    contents = {
        REPORT_FILE: (json.dumps(evaluation.to_dict(), indent=2) + "\n").encode(),
        CLASSES_FILE: _class_table(evaluation).encode(),
    }
    if isinstance(evaluation, Evaluation):
        contents[CONFUSION_FILE] = confusion_picture(evaluation)
        if evaluation.mistakes:
            contents[MISTAKES_FILE] = mistakes_picture(evaluation)
        if evaluation.calibration is not None:
            contents[RELIABILITY_FILE] = reliability_picture(evaluation.calibration, evaluation.model)
        _tell_of_indices(evaluation)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in {CONFUSION_FILE, MISTAKES_FILE, RELIABILITY_FILE} - set(contents):
            (folder / name).unlink(missing_ok=True)
        for name, data in contents.items():
            write_atomically(folder / name, data)
    except OSError as error:
        raise InputError(f"Cannot write the report to {folder}: {error.strerror or error}.") from error
    return [folder / name for name in contents]


def confusion_picture(evaluation: Evaluation) -> bytes:
    """Draw the confusion matrix, normalised by row, as a PNG."""
    figure_module = require_matplotlib()
    seen = _seen(evaluation)
    counts = evaluation.confusion[np.ix_(seen, seen)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    class_names = _ClassNames(evaluation, seen.tolist())
    step, names = class_ticks(lambda index: class_names.written(index, _TICK_COLUMNS), seen.tolist())
    side = 4 + 0.35 * len(names)
    figure = figure_module.Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the row's class")
    title = f"{evaluation.model}: top-1 {evaluation.top1.value:.4f}"
    if step > 1:
        title += f"\n{len(seen)} classes by index; one in {step} is named, {CLASSES_FILE} has them all in this order"
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    axes.set_xticks(range(0, len(seen), step), names, rotation=90, **class_names.style)
    axes.set_yticks(range(0, len(seen), step), names, **class_names.style)
    if step == 1:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] < 0.6 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=7)
    return _png(figure, dpi=110)


def class_ticks(written: Callable[[int], str], indices: Sequence[int]) -> tuple[int, list[str]]:
    """Return which of the classes ``indices`` are named on an axis, one in so many, and their names as ``written``.

    Where not all of them are named, their indices tell where the others are.
    """
    step = max(1, -(-len(indices) // _NAMED_CLASSES))
    names = [written(index) for index in indices[::step]]
    if step > 1:
        names = [f"{index} {name}" for index, name in zip(indices[::step], names, strict=True)]
    return step, names


def mistakes_picture(evaluation: Evaluation) -> bytes:
    """Draw the most confident mistakes, each with its true and its predicted class, as a PNG."""
    figure_module = require_matplotlib()
    rows = -(-len(evaluation.mistakes) // _COLUMNS)
    height, width = rows * (_TILE + _CAPTION), _COLUMNS * _TILE
    sheet = np.full((height, width, 3), 255, np.uint8)
    figure = figure_module.Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    names = _ClassNames(evaluation, _mistaken(evaluation))
    for place, mistake in enumerate(evaluation.mistakes):
        top, left = place // _COLUMNS * (_TILE + _CAPTION), place % _COLUMNS * _TILE
        sheet[top : top + _TILE, left : left + _TILE] = _thumbnail(evaluation, mistake)
        lines = (
            f"is {names.written(mistake.expected, _CAPTION_COLUMNS)}",
            f"said {names.written(mistake.predicted, _CAPTION_COLUMNS - 7)} {mistake.score:.2f}",
        )
        for line, text in enumerate(lines):
            baseline = top + _TILE + 13 + 15 * line
            figure.text((left + 3) / width, 1 - baseline / height, text, fontsize=_CAPTION_POINTS, **names.style)
    figure.figimage(sheet)
    return _png(figure, dpi=_DPI)


class _ClassNames:
    """Class names as drawn: the first synonym, or the index if no font covers it."""

    def __init__(self, evaluation: Evaluation, indices: Iterable[int]) -> None:
        self._names = {index: evaluation.labels[index].label.split(",")[0].strip() for index in indices}
        self._lettering = lettering(self._names.values())
        self.style = self._lettering.style

    def written(self, index: int, columns: int) -> str:
        name = self._names[index]
        return shortened(name, columns) if name and self._lettering.can_write(name) else f"class {index}"

    def unwritten(self) -> int:
        return sum(not self._lettering.can_write(name) for name in self._names.values())


def _tell_of_indices(evaluation: Evaluation) -> None:
    seen = _seen(evaluation).tolist()
    drawn = {*_mistaken(evaluation), *seen[:: max(1, -(-len(seen) // _NAMED_CLASSES))]}
    if unwritten := _ClassNames(evaluation, drawn).unwritten():
        _log.warning(
            "%d class names are drawn as indices: no installed font covers them. Install one that does, such as Noto "
            "Sans CJK.",
            unwritten,
        )


def _seen(evaluation: Evaluation) -> NDArray[np.int64]:
    """Return the classes that have images or predictions."""
    return np.flatnonzero(evaluation.confusion.sum(axis=0) + evaluation.confusion.sum(axis=1))


def _mistaken(evaluation: Evaluation) -> set[int]:
    return {index for item in evaluation.mistakes for index in (item.expected, item.predicted)}


def _png(figure: Any, dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _thumbnail(evaluation: Evaluation, mistake: Mistake) -> NDArray[np.uint8]:
    """Return the image, fitted into a grey square."""
    tile = np.full((_TILE, _TILE, 3), 224, np.uint8)
    try:
        rgb = evaluation.read_image(mistake.sample.read())
    except ImageError:  # it was readable when it was classified, and is gone now: the square stays empty
        return tile
    scale = (_TILE - 4) / max(rgb.shape[:2])
    width, height = (max(1, round(side * scale)) for side in (rgb.shape[1], rgb.shape[0]))
    top, left = (_TILE - height) // 2, (_TILE - width) // 2
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    tile[top : top + height, left : left + width] = cv2.resize(rgb, (width, height), interpolation=interpolation)
    return tile


def _class_table(evaluation: Evaluation | MultiLabelEvaluation) -> str:
    more = [] if isinstance(evaluation, Evaluation) else ["f1", "average_precision"]
    rows = [csv_row(["index", "label", "images", "recall", "recall_low", "recall_high", "precision", *more])]
    for row in evaluation.to_dict()["classes"]:
        recall = row["recall"]
        shares = (recall["total"], recall["value"], *recall["interval"], row["precision"]["value"])
        rows.append(csv_row([row["index"], row["label"], *shares, *(row[name] for name in more)]))
    return "".join(rows)

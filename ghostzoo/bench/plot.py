"""Results as a picture: latency against accuracy, one point a model, and bars an engine."""

from __future__ import annotations

import io
import textwrap
from typing import Any

from .._utils.plots import require_matplotlib
from .machine import machine_line
from .results import Measurement, Results
from .tables import photograph_notes

_WIDTH_INCHES, _HEIGHT_INCHES, _DPI = 12, 5.5, 120
_ROOM_FOR_NAMES = 1.5
_TITLE_COLUMNS = 150


def draw(results: Results) -> bytes:
    """Draw network latency at batch 1 with the fewest threads measured; a PNG."""
    figure = require_matplotlib().Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), layout="constrained")
    fewest = min(item.cell.threads for item in results.measurements)
    shown = [item for item in results.measurements if (item.cell.threads, item.cell.batch_size) == (fewest, 1)]
    left, right = figure.subplots(1, 2)
    _points(left, results, shown)
    _bars(right, shown)
    machine = textwrap.fill(machine_line(results.machine), _TITLE_COLUMNS)
    figure.suptitle(f"Batch 1, {fewest} thread{'s' if fewest > 1 else ''}\n{machine}", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _points(axes: Any, results: Results, shown: list[Measurement]) -> None:
    """One point a model: its fastest engine."""
    unknown, below = [], photograph_notes(results.models)
    for model in results.models:
        candidates = [item for item in shown if item.cell.model == model.name]
        if not candidates:
            continue
        if model.top1 is None:
            unknown.append(model.name)
            continue
        best = min(candidates, key=lambda item: item.network.median_ms)
        axes.plot(best.network.median_ms, 100 * model.top1, "o", markersize=9)
        label = f"{model.name}\n{best.cell.engine} {best.cell.precision}"
        place = (best.network.median_ms, 100 * model.top1)
        axes.annotate(label, place, textcoords="offset points", xytext=(8, -4), fontsize=8)
    axes.set(xlabel="network latency of the fastest engine [ms]", ylabel="top-1 accuracy [%]")
    axes.set_title("Latency against accuracy", fontsize=10)
    axes.margins(y=0.2)
    if axes.lines:
        axes.set_xlim(0, _ROOM_FOR_NAMES * axes.dataLim.xmax)
    axes.grid(alpha=0.3)
    if unknown:
        below.append(f"accuracy unknown: {', '.join(unknown)}")
    axes.text(0.02, 0.02, "\n".join(textwrap.fill(line, 90) for line in below), transform=axes.transAxes, fontsize=7)


def _bars(axes: Any, shown: list[Measurement]) -> None:
    models = list(dict.fromkeys(item.cell.model for item in shown))
    series = list(dict.fromkeys((item.cell.engine, item.cell.precision) for item in shown))
    height = 0.8 / len(series)
    for index, (engine, precision) in enumerate(series):
        chosen = [item for item in shown if (item.cell.engine, item.cell.precision) == (engine, precision)]
        places = [models.index(item.cell.model) + (index - (len(series) - 1) / 2) * height for item in chosen]
        bars = axes.barh(
            places,
            [item.network.median_ms for item in chosen],
            height,
            xerr=[item.network.noise * item.network.median_ms for item in chosen],
            label=f"{engine} {precision}",
        )
        axes.bar_label(bars, [f"{item.network.median_ms:.2f}" for item in chosen], fontsize=8, padding=4)
    axes.set_yticks(range(len(models)), models, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    axes.set(xlabel="network latency [ms], with its noise")
    axes.set_title("Engines", fontsize=10)
    axes.legend(fontsize=8)

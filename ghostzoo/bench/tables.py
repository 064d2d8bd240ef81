"""Results as tables, for the terminal and as Markdown.

The core is what a terminal of 80 columns holds; the others are the original's two speed tables and its storage column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..catalog import MODEL_PAGE, TIMM_RESULTS, get_model, list_models
from .machine import machine_line
from .results import Measurement, ModelFacts, Results, Timing

_HEAD = ("model", "engine", "precision")
_SPEED = (
    *("network ms", "network p95", "end to end ms", "end to end p95"),
    *("noise", "images/s", "peak MB", "load s"),
)
_LEAST_NOISE = 0.02
"""Two runs of the same on a quiet machine differ by as much."""


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        lines = [f"### {self.title}", "", _line(self.columns), _line("---" for _ in self.columns)]
        return "\n".join([*lines, *map(_line, self.rows)])


def core_tables(results: Results) -> list[Table]:
    """Return a table for each model: the medians of all cells."""
    machine = f"{results.machine.get('processor', 'another machine')}, {results.machine.get('cpus', '?')} CPUs"
    return [
        Table(
            f"{model.name} on {machine}: milliseconds per call",
            ("engine", "precision", "threads", "batch", "network", "end to end", "images/s", "noise"),
            tuple(
                (
                    *_named(item)[1:],
                    str(item.cell.threads),
                    str(item.cell.batch_size),
                    f"{item.network.median_ms:.2f}",
                    f"{item.end_to_end.median_ms:.2f}",
                    f"{item.images_per_second:.1f}",
                    _noise(item),
                )
                for item in results.measurements
                if item.cell.model == model.name
            ),
        )
        for model in results.models
    ]


def result_tables(results: Results) -> list[Table]:
    """Return the tables: threads at batch 1, batch sizes, storage."""
    facts = {model.name: model for model in results.models}
    first = min(item.cell.threads for item in results.measurements)
    by_threads = [item for item in results.measurements if item.cell.batch_size == 1]
    by_batch = [item for item in results.measurements if item.cell.threads == first]
    return [
        Table(
            "Batch 1 by threads",
            (*_HEAD, "threads", *_SPEED, "Snapdragon 855 ms, published"),
            tuple(
                (
                    *_named(item),
                    str(item.cell.threads),
                    *_speed(item),
                    _figure(facts[item.cell.model].published_snapdragon855_ms, item.cell.threads),
                )
                for item in by_threads
            ),
        ),
        Table(
            f"Batch sizes, {first} thread{'s' if first > 1 else ''}",
            (*_HEAD, "batch", *_SPEED, "V100 ms, published"),
            tuple(
                (
                    *_named(item),
                    str(item.cell.batch_size),
                    *_speed(item),
                    _figure(facts[item.cell.model].published_v100_ms, item.cell.batch_size),
                )
                for item in by_batch
            ),
        ),
        Table("Storage", ("model", "precision", "MB", "top-1", "MB, published"), tuple(_storage(results.models))),
    ]


def photograph_notes(models: Sequence[ModelFacts]) -> list[str]:
    """Say what became of photographs, for each model whose accuracy on small pictures is shown."""
    measured = [record.measured for record in map(get_model, list_models()) if record.measured is not None]
    return [
        f"{model.name}: top-1 is of {figures.data}; it recognised {figures.photographs}."
        for model in models
        for figures in measured
        if model.top1 == figures.top1 and figures.photographs
    ]


INT8_SPEED = (
    "int8 is for size: in ONNX Runtime on a CPU without VNNI it took 6 % more time than float32; with VNNI, x1_0 at "
    "224 pixels took 14 % less and x0_5 at 96 pixels 20 % more."
)
"""Ratios of interleaved runs; ``benchmarks/README.md`` has more of them."""


def to_markdown(results: Results) -> str:
    """Return the whole report."""
    parts = ["# ghostzoo bench", machine_line(results.machine)]
    parts += [table.to_markdown() for table in result_tables(results)]
    parts.append(
        "Median and 95th percentile of a call, rounds of all cells of a model in turn. Network: a preprocessed batch; "
        "end to end: JPEG bytes to top-5. Noise: half the interquartile range by the median. Peak memory and load "
        "(import to first prediction): of a process of its own. " + INT8_SPEED
    )
    parts += [text for text in (results.warning, *photograph_notes(results.models)) if text]
    parts.append(
        f"Published figures were not measured here; they are PaddleClas's: <{MODEL_PAGE}>, and of timm's models "
        f"timm's: <{TIMM_RESULTS}>."
    )
    parts += results.left_out_lines()
    return "\n\n".join(parts) + "\n"


def _named(item: Measurement) -> tuple[str, ...]:
    return item.cell.model, item.cell.engine, item.cell.precision


def _speed(item: Measurement) -> tuple[str, ...]:
    return (
        *_times(item.network),
        *_times(item.end_to_end),
        _noise(item),
        f"{item.images_per_second:.1f}",
        "-" if item.peak_memory is None else f"{item.peak_memory / 1e6:.0f}",
        "-" if item.load_seconds is None else f"{item.load_seconds:.2f}",
    )


def _noise(item: Measurement) -> str:
    return f"{100 * item.noise:.0f} %"


def _times(timing: Timing) -> tuple[str, str]:
    return f"{timing.median_ms:.2f}", f"{timing.p95_ms:.2f}"


def _storage(models: Iterable[ModelFacts]) -> Iterable[tuple[str, ...]]:
    for model in models:
        for precision, size in model.file_sizes.items():
            top1 = "-" if model.top1 is None or precision != "fp32" else f"{model.top1:.4f}"
            published = model.published_storage_mb if precision == "fp32" else None
            yield model.name, precision, f"{size / 1e6:.2f}", top1, "-" if published is None else str(published)


def _figure(figures: dict[str, float], key: int) -> str:
    value = figures.get(str(key))
    return "-" if value is None else f"{value:.2f}"


def _line(cells: Sequence[str] | Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def compare(new: Results, old: Results) -> list[Table]:
    """Return a table for each model, with a row for each cell that both runs have.

    A difference within the noise of both is called none.
    """
    rows: dict[str, list[tuple[str, ...]]] = {}
    for item in new.measurements:
        before = old.find(item.cell)
        if before is None:
            continue
        cell = item.cell
        rows.setdefault(cell.model, []).append(
            (
                cell.engine,
                cell.precision,
                str(cell.threads),
                str(cell.batch_size),
                _change(item.network, before.network),
                _change(item.end_to_end, before.end_to_end),
            )
        )
    columns = ("engine", "precision", "threads", "batch", "network new/old", "end to end new/old")
    machine = old.machine.get("processor", "another machine")
    return [
        Table(f"{model} against the earlier run on {machine}", columns, tuple(found)) for model, found in rows.items()
    ]


def _change(new: Timing, old: Timing) -> str:
    ratio = new.median_ms / old.median_ms
    if abs(ratio - 1) <= max(_LEAST_NOISE, new.noise + old.noise):
        word = "no difference"
    else:
        word = "faster" if ratio < 1 else "slower"
    return f"{ratio:.3f} {word}"

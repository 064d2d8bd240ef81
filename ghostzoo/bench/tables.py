"""Results as tables, for the terminal and as Markdown: the original's two speed tables, and its storage column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..catalog import MODEL_PAGE
from .machine import machine_line
from .results import Measurement, ModelFacts, Results, Timing

_HEAD = ("model", "engine", "precision")
_SPEED = ("network ms", "p95", "end to end ms", "p95", "noise", "images/s", "peak MB", "load s")


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        lines = [f"### {self.title}", "", _line(self.columns), _line("---" for _ in self.columns)]
        return "\n".join([*lines, *map(_line, self.rows)])


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
    parts.append(f"Published figures were not measured here; they are PaddleClas's: <{MODEL_PAGE}>.")
    parts += [f"Left out: {cell}: {reason}" for cell, reason in results.left_out]
    return "\n\n".join(parts) + "\n"


def _named(item: Measurement) -> tuple[str, ...]:
    return item.cell.model, item.cell.engine, item.cell.precision


def _speed(item: Measurement) -> tuple[str, ...]:
    return (
        *_times(item.network),
        *_times(item.end_to_end),
        f"{max(item.network.noise, item.end_to_end.noise):.0%}",
        f"{item.images_per_second:.1f}",
        "-" if item.peak_memory is None else f"{item.peak_memory / 1e6:.0f}",
        "-" if item.load_seconds is None else f"{item.load_seconds:.2f}",
    )


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

"""Every installed engine against ONNX Runtime, for numbers of threads and batch sizes, in interleaved runs.

Run it with the runtime's environment: ``.venv/bin/python benchmarks/engines.py``. Engines that are not installed,
cannot run the model here, or give other answers than the golden vectors are named with the reason. For each number of
threads and each batch size all engines on CPUs run in turn, round after round, so that what else the machine does hits
all of them alike; what is compared is the ratio. Other devices count no threads: they run in turn with ONNX Runtime on
all usable CPUs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.turns import print_peak
from ghostzoo._utils.hardware import cpu_name, usable_cpus
from ghostzoo.bundle.folder import COMPUTED, Bundle
from ghostzoo.catalog import get_model
from ghostzoo.cli.console import print_table
from ghostzoo.converter import convert
from ghostzoo.engines import engine_names, engine_record
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.candidates import (
    Candidate,
    Discarded,
    Measured,
    Opened,
    find_devices,
    keep_devices,
    keep_installed,
    keep_with_files,
    measure,
    open_checked,
    reason_of,
)
from ghostzoo.engines.selection import BASE_ENGINE
from ghostzoo.fetch.resolver import fetch
from ghostzoo.network.architecture import Architecture
from tests.fixtures.networks import random_arrays, write_weights


@contextmanager
def open_bundle(model: str | None, catalog_model: str) -> Iterator[Bundle]:
    """The bundle ``model``, or one of ``catalog_model`` with random weights, whose values do not change the time."""
    if model is not None:
        yield fetch(model)
        return
    with tempfile.TemporaryDirectory() as folder:
        arrays = random_arrays(Architecture.of(get_model(catalog_model).width, 1000))
        weights = write_weights(Path(folder, "weights.pdparams"), arrays)
        yield convert(weights, Path(folder, "bundle"), model=catalog_model)


def find_candidates(bundle: Bundle, options: EngineOptions) -> tuple[list[Candidate], list[Discarded]]:
    records = [engine_record(name) for name in engine_names()]
    installed, discarded = keep_installed(records, {record.name: record.versions() for record in records})
    runnable, without_files = keep_with_files(installed, bundle)
    discarded += without_files
    kept: list[Candidate] = []
    for record in runnable:
        found, unusable = find_devices(record)
        suitable, unsuitable = keep_devices(found, options)
        kept += suitable
        discarded += unusable + unsuitable
    return kept, discarded


def compare(
    bundle: Bundle, threads: int | None, batches: list[int], seconds: float
) -> tuple[list[Measured], list[Discarded]]:
    """Measure the engines on CPUs with ``threads`` threads, or those on other devices, in turn with each other."""
    options = EngineOptions(threads=threads)
    kept, discarded = find_candidates(bundle, options)
    if threads is None:
        kept = [item for item in kept if item.device.lower() != "cpu" or item.engine == BASE_ENGINE]
        discarded = []
        if len(kept) < 2:
            return [], []
    opened: list[Opened] = []
    for candidate in kept:
        for precision in ("fp32", *(name for name in COMPUTED if name in engine_record(candidate.engine).makes)):
            try:
                opened.append(open_checked(bundle, candidate, replace(options, precision=precision)))
            except Exception as error:  # the others are compared all the same
                discarded.append(candidate.discard(reason_of(error)))
    rows = [row for size in batches for row in measure(bundle, opened, size, seconds * len(opened))]
    names = [item.engine.options.precision for _ in batches for item in opened]
    rows = [
        row if name == "fp32" else replace(row, engine=f"{row.engine} {name}")
        for row, name in zip(rows, names, strict=True)
    ]
    for item in opened:
        item.engine.close()
    return rows, discarded


def table_row(row: Measured, rows: list[Measured]) -> list[str]:
    base = [other for other in rows if other.engine == BASE_ENGINE and other.batch_size == row.batch_size]
    return [
        row.engine,
        row.version,
        row.device,
        str(row.threads),
        str(row.batch_size),
        f"{row.milliseconds:.2f} ms",
        f"{1000 * row.batch_size / row.milliseconds:.1f}",
        f"{row.milliseconds / base[0].milliseconds:.2f}" if base else "-",
    ]


@click.command()
@click.option("--model", help="A bundle folder or a model's name.  [default: random weights]")
@click.option("--catalog-model", default="GhostNet_x1_0", show_default=True, help="Which network has random weights.")
@click.option("--threads", type=click.IntRange(min=1), multiple=True, help="[default: 1, and all usable CPUs]")
@click.option("--batch", type=click.IntRange(min=1), multiple=True, default=(1, 4, 8), show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="For each engine, number of threads and batch size.")
def main(
    model: str | None, catalog_model: str, threads: tuple[int, ...], batch: tuple[int, ...], seconds: float
) -> None:
    """Print the time of a call for each engine, number of threads and batch size, and its ratio to ONNX Runtime's."""
    table: list[list[str]] = []
    reasons: list[str] = []
    print_peak()
    with open_bundle(model, catalog_model) as bundle:
        for count in (*(threads or sorted({1, usable_cpus()})), None):
            rows, discarded = compare(bundle, count, list(batch), seconds)
            table += [table_row(row, rows) for row in rows]
            reasons += [str(item) for item in discarded if str(item) not in reasons]
        name = bundle.name
    columns = ["engine", "version", "device", "threads", "batch", "a call", "images/s", "ratio"]
    print_table(columns, table, caption=f"{name} on {cpu_name()}, {usable_cpus()} usable CPUs; medians")
    for reason in reasons:
        print(reason)


if __name__ == "__main__":
    main()

"""``Classifier.explain`` beside a plain call, on a decoded image: CPU time in turn, and of the first explanation."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

import ghostzoo
from benchmarks.figures import out_option, save
from benchmarks.layers import Peak
from benchmarks.turns import print_machine
from ghostzoo.bench.sample_image import jpeg
from ghostzoo.cli.console import print_table


@click.command()
@click.option("--model", "models", multiple=True, default=("GhostNet_x0_5_cifar10",), show_default=True)
@click.option("--engine", "engines", multiple=True, default=("onnxruntime", "openvino"), show_default=True)
@click.option("--calls", default=15, show_default=True)
@out_option
def main(models: tuple[str, ...], engines: tuple[str, ...], calls: int, out: Path | None) -> None:
    peak = Peak.measure()
    print_machine()
    rows, figures = [], {}
    for model in models:
        for engine in engines:
            with ghostzoo.load(model, engine=engine, threads=1) as classifier:
                image = classifier.read_image(jpeg())
                kinds: dict[str, Callable[[], object]] = {
                    "call": lambda image=image, each=classifier: each(image),
                    "explain": lambda image=image, each=classifier: each.explain(image),
                }
                kinds["call"]()
                first = cpu_ms(kinds["explain"])
                turns = [{name: cpu_ms(kind) for name, kind in kinds.items()} for _ in range(calls)]
                least = {name: min(turn[name] for turn in turns) for name in kinds}
                name = classifier.bundle.name
            figures[f"{name} {engine}"] = {**least, "first": first}
            rows.append([name, engine, *(f"{value:.2f}" for value in least.values()), f"{first:.0f}"])
    heads = ["model", "engine", "call ms", "explain ms", "first ms"]
    print_table(heads, rows, caption=f"One core at most: {peak.gflops:.0f} GFLOP/s")
    save(out, figures, peak_gflops=peak.gflops)


def cpu_ms(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return 1000 * (time.process_time() - started)


if __name__ == "__main__":
    main()

"""Where the time goes from JPEG bytes to the five best classes: each stage of ghostzoo and of the original's way.

CPU time of one thread, each stage as it runs within the whole, where the stage before has emptied the caches; medians.
Beside it stand two bounds: what the multiplications alone would take at this core's measured peak, and how many images
a second the stages of ``predict`` allow on all usable CPUs.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy comes
sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import numpy as np

import ghostzoo
from benchmarks.figures import out_option, save
from benchmarks.layers import Peak
from benchmarks.peer import open_onnxruntime, original_decode, original_normalise, original_resize, top5
from benchmarks.prepare import model_folder
from benchmarks.turns import print_machine
from ghostzoo._utils.hardware import usable_cpus
from ghostzoo.bench.sample_image import jpeg
from ghostzoo.catalog import get_model
from ghostzoo.cli.console import print_table
from ghostzoo.images.decode import read_image
from ghostzoo.images.transform import preprocess
from ghostzoo.network.architecture import Architecture
from ghostzoo.predictions import softmax, top_predictions

Stages = dict[str, Callable[[Any], Any]]
"""Name -> what makes the next stage's input of the last one's output."""
_BATCH = 4
"""What ``predict`` gives the engine at once."""


def run(stages: Stages, value: Any, times: dict[str, list[int]]) -> None:
    for name, stage in stages.items():
        start = time.thread_time_ns()
        value = stage(value)
        times.setdefault(name, []).append(time.thread_time_ns() - start)


@click.command()
@click.option("--model", default="GhostNet_x1_0", show_default=True)
@click.option("--rounds", default=200, show_default=True)
@out_option
def main(model: str, rounds: int, out: Path | None) -> None:
    print_machine()
    raw = open_onnxruntime(model_folder(model), 1, 1)
    times: dict[str, dict[str, list[int]]] = {"original": {}, "ghostzoo": {}, "batch": {}}
    with ghostzoo.load(model_folder(model) / "bundle", engine="onnxruntime", threads=1) as classifier:
        bundle, engine = classifier.bundle, classifier.engine
        shared = {"top 5": lambda logits: top_predictions(softmax(logits)[0], bundle.labels, 5)}
        stages = {
            "original": {
                "decode": original_decode,
                "resize": original_resize,
                "normalise": original_normalise,
                "network": raw,
                "top 5": lambda logits: top5(logits[0]),
            },
            "ghostzoo": {
                "decode": read_image,
                "resize and normalise": lambda rgb: preprocess(rgb, bundle.preprocessing)[np.newaxis],
                "network": engine.run,
                **shared,
            },
            "batch": {
                "decode": lambda data: [read_image(data) for _ in range(_BATCH)],
                "resize and normalise": lambda rgb: np.stack([preprocess(each, bundle.preprocessing) for each in rgb]),
                "network": engine.run,
                "top 5": lambda logits: [shared["top 5"](row[np.newaxis]) for row in logits],
            },
        }
        for _ in range(rounds):
            for name, each in stages.items():
                run(each, jpeg(), times[name])
    middle = {way: {name: statistics.median(row) / 1000 for name, row in rows.items()} for way, rows in times.items()}
    figures: dict[str, dict[str, float]] = {}
    for way, divisor in (("original", 1), ("ghostzoo", 1), ("batch", _BATCH)):
        total = sum(middle[way].values()) / divisor
        figures[way] = {name: value / divisor for name, value in middle[way].items()}
        rows = [
            [name, f"{value / divisor:.0f}", f"{value / divisor / total:.0%}"] for name, value in middle[way].items()
        ]
        title = f"{model}, {way}" if divisor == 1 else f"{model}, ghostzoo in batches of {divisor}"
        print_table([title, "microseconds an image", "share"], [*rows, ["all", f"{total:.0f}", ""]])
        print()
    record = get_model(model)
    peak = Peak.measure().gflops
    architecture = Architecture.of(record.width, record.num_classes)
    floor = 2 * architecture.count_multiply_adds(record.preprocessing.crop_size) / 1e6 / peak
    print(f"One core multiplies matrices at {peak:.0f} GFLOP/s: {model} cannot take less than {1000 * floor:.0f} us.")
    speed = usable_cpus() * 1e6 * _BATCH / sum(middle["batch"].values())
    print(f"{usable_cpus()} CPUs that do nothing but these stages classify {speed:.0f} images a second.")
    save(out, figures, peak_gflops=peak, images_per_second=speed)


if __name__ == "__main__":
    main()

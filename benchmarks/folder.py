"""A folder of JPEG files: ``Classifier.predict`` against a plain loop with Pillow, NumPy and default ONNX Runtime."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

from benchmarks.figures import out_option, save
from benchmarks.turns import OTHER_ENGINES, print_machine, print_peak, take_turns
from ghostzoo.bench.sample_image import jpeg
from ghostzoo.cli.console import print_table

TARGET = 4.0
NATIVE_TARGETS = {"GhostNet_x0_5": 5.0, "GhostNet_x1_0": 4.0}
PLAIN = "plain loop"


@click.command()
@click.option("--images", default=500, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--model", "models", multiple=True, default=("GhostNet_x0_5", "GhostNet_x1_0"), show_default=True)
@out_option
def main(images: int, rounds: int, models: tuple[str, ...], out: Path | None) -> None:
    print_machine()
    peak = print_peak()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(images):
            Path(folder, f"{index:05}.jpg").write_bytes(jpeg())
        rows = []
        for model in models:
            common = {"model": model, "work": "folder", "threads": 0, "batch": 0, "images": folder}
            orders = {name: {"kind": name, **common} for name in ("ghostzoo", *OTHER_ENGINES)}
            turns = take_turns({**orders, PLAIN: {"kind": "onnxruntime", **common}}, rounds=rounds, calls=1)
            speeds = {name: images / turns.median(name) for name in turns.durations}
            times = {name: 1 / turns.ratio(name, PLAIN) for name in speeds if name != PLAIN and PLAIN in speeds}
            figures[model] = {"images_per_second": speeds, "times": times.get("ghostzoo"), "times_of_engines": times}
            for name, speed in speeds.items():
                aim = {"ghostzoo": TARGET, "ghostzoo-native": NATIVE_TARGETS.get(model)}.get(name)
                ratio = f"{times[name]:.2f}" if name in times else ""
                rows.append([model, name, f"{speed:.1f}", ratio, "" if aim is None else f"{aim:g}"])
            for name, reason in turns.absent.items():
                print(f"{name}: took no part: {reason}")
    print_table(["folder of JPEG files", "by", "images/s", "times the plain loop", "target"], rows)
    save(out, figures, peak_gflops=peak)


if __name__ == "__main__":
    main()

"""A folder of JPEG files: ``Classifier.predict`` against a plain loop with Pillow, NumPy and default ONNX Runtime."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

from benchmarks.figures import out_option, save
from benchmarks.turns import print_machine, take_turns
from ghostzoo.bench.sample_image import jpeg
from ghostzoo.cli.console import print_table

TARGET = 4.0


@click.command()
@click.option("--images", default=500, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--model", "models", multiple=True, default=("GhostNet_x0_5", "GhostNet_x1_0"), show_default=True)
@out_option
def main(images: int, rounds: int, models: tuple[str, ...], out: Path | None) -> None:
    print_machine()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(images):
            Path(folder, f"{index:05}.jpg").write_bytes(jpeg())
        rows = []
        for model in models:
            common = {"model": model, "work": "folder", "threads": 0, "batch": 0, "images": folder}
            turns = take_turns(
                {"ghostzoo": {"kind": "ghostzoo", **common}, "plain loop": {"kind": "onnxruntime", **common}},
                rounds=rounds,
                calls=1,
            )
            speeds = {name: images / turns.median(name) for name in ("ghostzoo", "plain loop")}
            times = 1 / turns.ratio("ghostzoo", "plain loop")
            figures[model] = {"images_per_second": speeds, "times": times}
            rows.append([model, *(f"{speed:.1f}" for speed in speeds.values()), f"{times:.2f}", f"{TARGET:g}"])
    print_table(["folder of JPEG files", "ghostzoo images/s", "plain loop images/s", "ratio", "target"], rows)
    save(out, figures)


if __name__ == "__main__":
    main()

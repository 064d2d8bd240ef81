"""JPEG bytes to the five best classes: ghostzoo against the original's preprocessing with each library."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

from benchmarks.figures import out_option, save
from benchmarks.turns import OTHER_ENGINES, print_machine, print_peak, show, take_turns
from ghostzoo.bench.sample_image import jpeg

TARGETS = {"onnxruntime": 0.74, "paddle": 0.45, "torch-compiled": 0.5}
ENGINE_TARGETS = {"ghostzoo-native": 0.76, "ghostzoo-native-bf16": 0.56}
"""Of other engines, to ghostzoo in ONNX Runtime."""
PEERS = (*TARGETS, "openvino", "torch", "ncnn", "mnn")


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=40, show_default=True)
@click.option("--model", default="GhostNet_x1_0", show_default=True)
@click.option("--peer", "peers", multiple=True, type=click.Choice(PEERS), help="[default: all]")
@click.option("--image", type=click.Path(exists=True), help="[default: a made JPEG of 500 x 375 pixels]")
@out_option
def main(threads: int, rounds: int, model: str, peers: tuple[str, ...], image: str | None, out: Path | None) -> None:
    print_machine()
    peak = print_peak()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(image or Path(folder, "made.jpg"))
        if image is None:
            path.write_bytes(jpeg())
        common = {"model": model, "work": "jpeg", "threads": threads, "batch": 1, "image": str(path)}
        names = ("ghostzoo", *OTHER_ENGINES, *(peers or PEERS))
        turns = take_turns({name: {"kind": name, **common} for name in names}, rounds=rounds, calls=4)
    best = {name: [index for index, _ in map(tuple, result)] for name, result in turns.results.items()}
    if any(order != best["ghostzoo"] for name, order in best.items() if not name.endswith("bf16")):
        raise SystemExit(f"the five best classes differ: {best}")
    show(f"{model}, bytes to top-5, {threads} thread(s)", turns, TARGETS, "ghostzoo")
    for name, target in ENGINE_TARGETS.items():
        if name in turns.durations:
            print(f"{name} / ghostzoo in ONNX Runtime: {turns.ratio(name, 'ghostzoo'):.3f}, target {target:g}")
    save(out, turns.figures("ghostzoo"), peak_gflops=peak)


if __name__ == "__main__":
    main()

"""LiteRT's files in float32 and int8, against ONNX Runtime's float32: size, and processor time of one thread.

.venv/bin/python benchmarks/litert.py GhostNet_x1_0

Each plan of ``exporters/quantize.py`` is tried, whatever it would lose of the accuracy. The calls take turns, and the
fastest of each counts.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import numpy as np

from benchmarks.figures import out_option, save
from benchmarks.turns import print_machine, print_peak
from exporters.quantize import PLANS, to_int8
from exporters.to_litert import convert_graph
from ghostzoo.cli.console import print_table
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.litert import LiteRtEngine
from ghostzoo.engines.onnxruntime import OnnxRuntimeEngine
from ghostzoo.fetch.resolver import fetch

BATCHES = (1, 8)


@click.command()
@click.argument("model")
@click.option("--images", default=200, show_default=True, help="For each engine and batch size.")
@out_option
def main(model: str, images: int, out: Path | None) -> None:
    """Measure the network of MODEL, a bundle's folder or a name."""
    print_machine()
    print_peak()
    bundle = fetch(model)
    pixels = bundle.golden().pixel_values
    files = {"fp32": convert_graph(bundle, bundle.model())}
    for plan in PLANS:
        files[f"int8, {plan.name}"] = convert_graph(bundle, to_int8(bundle.model(), plan, lambda: iter([pixels])))
    engines = {"onnxruntime": OnnxRuntimeEngine(bundle.model(), EngineOptions(threads=1))}
    for name, data in files.items():
        options = EngineOptions(threads=1, precision=name.partition(",")[0])
        engines[name] = LiteRtEngine({"model.tflite": data}, options, bundle.config.image_size)
    found = {name: {"bytes": len(data)} for name, data in files.items()}
    for batch in BATCHES:
        pictures = np.resize(pixels, (batch, *pixels.shape[1:]))
        fastest = dict.fromkeys(engines, float("inf"))
        for _ in range(max(images // batch, 1)):
            for name, engine in engines.items():
                start = time.process_time()
                engine.run(pictures)
                fastest[name] = min(fastest[name], time.process_time() - start)
        for name in files:
            found[name][f"batch_{batch}"] = fastest[name] / fastest["onnxruntime"]
    rows = [
        [name, f"{row['bytes'] / 1e6:.2f}", *(f"{row[f'batch_{batch}']:.2f}" for batch in BATCHES)]
        for name, row in found.items()
    ]
    print_table(["LiteRT", "MB", *(f"time, batch {b}" for b in BATCHES)], rows)
    save(out, {"model": bundle.name, "files": found})


if __name__ == "__main__":
    main()

"""ghostzoo's graph against paddle2onnx's raw graph, in ONNX Runtime, in one interleaved run.

Run it in the exporter's environment: ``.venv-export/bin/python benchmarks/graph.py``. Both graphs have the same weights
(random ones, whose values do not change the time), default session options and the same number of threads. Rounds of
one and the other alternate, so that what else the machine does hits both alike; what is compared is the ratio.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parents[1]))

from exporters.paddle_network import build_network
from exporters.paddle_route import export_with_paddle2onnx
from ghostzoo.architecture import Architecture
from ghostzoo.graph import build_graph
from ghostzoo.parity import compare_logits
from ghostzoo.terminal import print_table
from tests.fixtures.networks import random_arrays

WIDTHS = {"GhostNet_x0_5": 0.5, "GhostNet_x1_0": 1.0, "GhostNet_x1_3": 1.3}


def session(model: bytes, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def interleaved_medians(runs: dict[str, Any], rounds: int, calls: int) -> dict[str, float]:
    """Median seconds a call of each, from ``rounds`` in which each in turn makes ``calls`` calls."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            for _ in range(calls):
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(width: float, batch: int, threads: int, rounds: int, calls: int) -> dict[str, float]:
    architecture = Architecture.of(width, 1000)
    arrays = random_arrays(architecture)
    ours = build_graph(arrays, architecture, model_name="benchmark", weights_sha256="0" * 64, image_size=224)
    raw = export_with_paddle2onnx(build_network(arrays, architecture), 224)
    pixel_values = np.random.default_rng(0).normal(size=(batch, 3, 224, 224)).astype(np.float32)
    sessions = {"raw": session(raw, threads), "ours": session(ours, threads)}
    inputs = {name: {each.get_inputs()[0].name: pixel_values} for name, each in sessions.items()}
    outputs = {name: [each.get_outputs()[0].name] for name, each in sessions.items()}
    answers = [sessions[name].run(outputs[name], inputs[name])[0] for name in sessions]
    if not compare_logits(*answers).within(1e-5):
        raise SystemExit("the two graphs do not compute the same; there is nothing to compare")

    def run(name: str) -> Any:
        return lambda: sessions[name].run(outputs[name], inputs[name])

    return interleaved_medians({name: run(name) for name in sessions}, rounds, calls)


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=30, show_default=True, help="Alternations between the two.")
@click.option("--calls", default=10, show_default=True, help="Calls a round, divided by the batch size.")
def main(threads: int, rounds: int, calls: int) -> None:
    """Print the time of a call with each graph, and the ratio."""
    rows = []
    for batch in (1, 8):
        for name, width in WIDTHS.items():
            medians = measure(width, batch, threads, rounds, max(1, calls // batch))
            times = [f"{1000 * medians[graph]:.2f} ms" for graph in ("raw", "ours")]
            rows.append([name, str(batch), *times, f"{medians['ours'] / medians['raw']:.2f}"])
    print_table(
        ["model", "batch", "paddle2onnx", "ghostzoo", "ratio"],
        rows,
        caption=f"{processor()}, {threads} thread(s), onnxruntime {ort.__version__}, median of {rounds} rounds",
    )


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

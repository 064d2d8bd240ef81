"""Where the network's time goes: ONNX Runtime's own profile by kind of layer, against what one core can do at most."""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import numpy as np
import onnxruntime as ort

from benchmarks.figures import out_option, save
from benchmarks.prepare import model_folder
from benchmarks.turns import print_machine
from ghostzoo.cli.console import print_table
from ghostzoo.engines.onnxruntime import PIECE
from ghostzoo.network.architecture import Architecture

WIDTHS = {"GhostNet_x0_5": 0.5, "GhostNet_x1_0": 1.0, "GhostNet_x1_3": 1.3}
IMAGE_SIZE = 224
_SIDE = 512
"""Of the matrices whose product shows the core's peak: large enough for it, and done before much else gets its turn."""
_MOVES = ("Concat", "ReorderInput", "ReorderOutput", "Reshape", "Flatten", "Slice", "Shape", "Unsqueeze")


@dataclass
class Peak:
    """What one core reaches in large plain operations."""

    gflops: float
    memory: float
    cache: float
    """GB/s, reading from memory and from the last level of cache."""

    @classmethod
    def measure(cls) -> Peak:
        square = np.random.default_rng(0).normal(size=(_SIDE, _SIDE)).astype(np.float32)
        multiply = _session(_matmul(_SIDE))
        seconds = _fastest(lambda: multiply.run(None, {"a": square, "b": square}), 300)
        return cls(2 * _SIDE**3 / seconds / 1e9, _reading(1 << 25), _reading(1 << 19))


@dataclass
class Kind:
    """The nodes of one kind, of one run."""

    nodes: int = 0
    seconds: float = 0
    operations: float = 0
    traffic: float = 0


@click.command()
@click.option("--model", "models", multiple=True, type=click.Choice(list(WIDTHS)), help="[default: all]")
@click.option("--batch", "batches", multiple=True, type=int, default=(1,), show_default=True)
@click.option("--runs", default=60, show_default=True)
@out_option
def main(models: tuple[str, ...], batches: tuple[int, ...], runs: int, out: Path | None) -> None:
    """Print a table for the raw graph of paddle2onnx and one for ghostzoo's, one thread."""
    print_machine()
    peak = Peak.measure()
    print(
        f"One core at most: {peak.gflops:.0f} GFLOP/s (a product of {_SIDE} x {_SIDE} matrices), "
        f"{peak.memory:.0f} GB/s from memory, {peak.cache:.0f} GB/s from cache (a dot product).\n"
    )
    figures: dict[str, Any] = {}
    for model, batch in product(models or WIDTHS, batches):
        folder = model_folder(model)
        needed = 2 * batch * Architecture.of(WIDTHS[model], 1000).count_multiply_adds(IMAGE_SIZE)
        pieces = math.ceil(batch / PIECE)  # as the engine runs it
        graphs = {"raw": ("raw.onnx", None), "ghostzoo": ("bundle/onnx/model.onnx", batch // pieces)}
        profiles = {name: profile(folder / path, batch, fixed, runs) for name, (path, fixed) in graphs.items()}
        for name, kinds in profiles.items():
            _show(f"{model}, batch {batch}: {name}", kinds, peak, needed)
        figures[f"{model}, batch {batch}"] = {
            "needed": needed,
            "profiles": {
                name: {kind: asdict(entry) for kind, entry in kinds.items()} for name, kinds in profiles.items()
            },
        }
    save(out, figures, peak=asdict(peak))


def profile(model: Path, batch: int, fixed: int | None, runs: int) -> dict[str, Kind]:
    """Return kind -> its nodes' sums; each node counts with its fastest run, so what disturbs a run falls out.

    A batch runs in pieces of ``fixed`` images, or at once where that is ``None``.
    """
    size = batch if fixed is None else fixed
    with tempfile.TemporaryDirectory() as folder:
        session = _session(model.read_bytes(), fixed=fixed, prefix=str(Path(folder, "profile")))
        pixels = np.random.default_rng(0).normal(size=(size, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
        for _ in range(runs):
            session.run(None, {session.get_inputs()[0].name: pixels})
        events = json.loads(Path(session.end_profiling()).read_text())
    fastest: dict[str, dict[str, Any]] = {}
    for event in (each for each in events if each["name"].endswith("_kernel_time")):
        known = fastest.setdefault(event["name"], event)
        if event["dur"] < known["dur"]:
            fastest[event["name"]] = event
    kinds: dict[str, Kind] = defaultdict(Kind)
    for event in fastest.values():
        kind, operations, traffic = _describe(event["args"])
        entry = kinds[kind]
        entry.nodes += 1
        entry.seconds += event["dur"] / 1e6 * (batch / size)
        entry.operations += operations * (batch / size)
        entry.traffic += traffic * (batch / size)
    return dict(kinds)


def _describe(node: dict[str, Any]) -> tuple[str, float, float]:
    """Return a node's kind, its floating-point operations, padding included, and the bytes that it reads and writes."""
    inputs, outputs = (
        [next(iter(each.values())) for each in node[f"{side}_type_shape"] if each] for side in ("input", "output")
    )
    traffic = 4.0 * sum(math.prod(shape) for shape in inputs + outputs)
    operator = node["op_name"]
    if operator in ("Gemm", "FusedGemm"):
        weights = inputs[0][-1] * outputs[0][-1]  # not among the inputs where ONNX Runtime has packed them
        traffic = 4.0 * (math.prod(inputs[0]) + weights + math.prod(outputs[0]))
        return "squeeze-and-excitation, head", 2.0 * inputs[0][0] * weights, traffic
    if operator in ("Conv", "FusedConv"):
        weight, output = inputs[1], outputs[0]
        operations = 2.0 * math.prod(output) * math.prod(weight[1:])
        if output[2] == 1:
            return "squeeze-and-excitation, head", operations, traffic
        if weight[2] == 1:
            return "1x1 convolutions", operations, traffic
        return ("depthwise convolutions" if weight[1] == 1 else "first convolution"), operations, traffic
    return ("joining, cutting, reordering" if operator in _MOVES else "adding, gating, pooling"), 0.0, traffic


def _show(title: str, kinds: dict[str, Kind], peak: Peak, needed: float) -> None:
    total = sum(kind.seconds for kind in kinds.values())
    rows = [
        [
            name,
            str(kind.nodes),
            f"{1000 * kind.seconds:.2f}",
            f"{kind.seconds / total:.0%}",
            f"{kind.operations / kind.seconds / 1e9:.0f}" if kind.operations else "",
            f"{kind.operations / kind.seconds / 1e9 / peak.gflops:.0%}" if kind.operations else "",
            f"{kind.traffic / kind.seconds / 1e9:.0f}",
        ]
        for name, kind in sorted(kinds.items(), key=lambda item: -item[1].seconds)
    ]
    speed = needed / total / 1e9
    computed = sum(kind.operations for kind in kinds.values()) / needed
    rows.append(["all", str(sum(kind.nodes for kind in kinds.values())), f"{1000 * total:.2f}", "", f"{speed:.0f}"])
    rows[-1] += [f"{speed / peak.gflops:.0%}", ""]
    print_table([title, "nodes", "ms", "share", "GFLOP/s", "of the peak", "GB/s"], rows)
    print(
        f"The last line counts the network's own operations; computed are {computed:.2f} times as many.\n", flush=True
    )


def _session(model: bytes, *, fixed: int | None = None, prefix: str | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if fixed is not None:
        options.add_free_dimension_override_by_name("batch", fixed)
    if prefix is not None:
        options.enable_profiling, options.profile_file_prefix = True, prefix
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _matmul(size: int) -> bytes:
    from onnx import TensorProto, helper

    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [a, b], [c])
    opset = helper.make_opsetid("", 17)
    content: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    return content


def _reading(count: int) -> float:
    """GB/s of a dot product of ``count`` float32 numbers with themselves."""
    numbers = np.ones(count, np.float32)
    return 4 * count / _fastest(lambda: numbers.dot(numbers), 50) / 1e9


def _fastest(call: Callable[[], object], runs: int) -> float:
    best = math.inf
    for _ in range(runs):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()

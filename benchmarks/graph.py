"""The network alone: ghostzoo against the raw graph in ONNX Runtime and against the other libraries."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import numpy as np

from benchmarks.figures import out_option, save
from benchmarks.turns import OTHER_ENGINES, print_machine, print_peak, show, take_turns
from ghostzoo.parity import engine_tolerance

TARGETS = {
    1: {
        **{"GhostNet_x0_5": 0.75, "GhostNet_x1_0": 0.84, "GhostNet_x1_3": 0.74},
        **{"ghostnet_100": 0.80, "ghostnetv2_100": 0.91, "ghostnetv2_130": 0.77, "ghostnetv3_100": 0.91},
        **{"repghostnet_050": 0.84, "repghostnet_100": 0.95, "repghostnet_130": 0.95},
    },
    8: {
        **{"GhostNet_x0_5": 0.65, "GhostNet_x1_0": 0.78, "GhostNet_x1_3": 0.66},
        **{"ghostnet_100": 0.66, "ghostnetv2_100": 0.86, "ghostnetv2_130": 0.71, "ghostnetv3_100": 0.86},
        **{"repghostnet_050": 0.84, "repghostnet_100": 0.95, "repghostnet_130": 0.95},
    },
}
"""Batch -> model -> the ratio to reach, to the graph of the source's own exporter in ONNX Runtime."""
PEERS_OF_TIMM = ("onnxruntime", "openvino")
"""Those that take ONNX: timm's models are not made in the formats of the others."""
NATIVE_TARGETS = {
    1: {"GhostNet_x0_5": 0.52, "GhostNet_x1_0": 0.70, "GhostNet_x1_3": 0.77},
    8: {"GhostNet_x0_5": 0.52, "GhostNet_x1_0": 0.71, "GhostNet_x1_3": 0.80},
}
"""Of the native engine in float32, to ONNX Runtime with the same graph."""
BF16_TARGETS = {1: {"GhostNet_x0_5": 0.36, "GhostNet_x1_0": 0.42, "GhostNet_x1_3": 0.46}}
PEERS = ("onnxruntime", "openvino", "paddle", "torch", "torch-compiled", "ncnn", "mnn")
OURS = "ghostzoo onnxruntime"


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=30, show_default=True)
@click.option("--peer", "peers", multiple=True, type=click.Choice(PEERS), help="[default: all]")
@click.option("--model", "models", multiple=True, type=click.Choice(list(TARGETS[1])), help="[default: all]")
@click.option("--batch", "batches", multiple=True, type=int, help="[default: 1 and 8]")
@click.option("--processor-time", is_flag=True, help="Count processor time: on a busy machine, with one thread.")
@out_option
def main(
    threads: int,
    rounds: int,
    peers: tuple[str, ...],
    models: tuple[str, ...],
    batches: tuple[int, ...],
    processor_time: bool,
    out: Path | None,
) -> None:
    print_machine()
    peak = print_peak()
    figures = {}
    for batch in batches or (1, 8):
        for model in models or TARGETS[1]:
            common = {
                "model": model,
                "work": "network",
                "threads": threads,
                "batch": batch,
                "processor_time": processor_time,
            }
            others = (*OTHER_ENGINES, "ghostzoo-native-avx2")
            orders = {
                OURS: {"kind": "ghostzoo", **common},
                **{kind.replace("-", " "): {"kind": kind, **common} for kind in others},
                **{peer: {"kind": peer, **common} for peer in _peers(model, peers)},
            }
            turns = take_turns(orders, rounds=rounds, calls=max(1, 4 // batch))
            _check(turns.results)
            targets = {"onnxruntime": TARGETS.get(batch, {}).get(model)}
            show(f"{model}, batch {batch}, {threads} thread(s)", turns, targets, OURS)
            for name, aims in (("ghostzoo native", NATIVE_TARGETS), ("ghostzoo native bf16", BF16_TARGETS)):
                if name in turns.durations:
                    target = aims.get(batch, {}).get(model)
                    print(f"{name} / {OURS}: {turns.ratio(name, OURS):.3f}, target {target or '-'}\n", flush=True)
            figures[f"{model}, batch {batch}"] = turns.figures(OURS)
    save(out, figures, peak_gflops=peak)


def _peers(model: str, chosen: tuple[str, ...]) -> tuple[str, ...]:
    known = PEERS if model.startswith("GhostNet") else PEERS_OF_TIMM
    return tuple(peer for peer in known if peer in (chosen or known))


def _check(results: dict[str, object]) -> None:
    """All candidates must compute the same."""
    expected = np.asarray(results[OURS], np.float32)
    for name, result in results.items():
        tolerance = engine_tolerance("bf16" if name.endswith("bf16") else "fp32")
        difference = np.abs(np.asarray(result, np.float32).reshape(expected.shape) - expected).max()
        if difference > tolerance * np.abs(expected).max():
            raise SystemExit(f"{name} computes something else: its logits differ by {difference:g}")


if __name__ == "__main__":
    main()

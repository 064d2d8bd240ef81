"""Make the models that the benchmarks compare: the same random weights as a bundle and in the peers' own formats.

Runs in the exporter's environment, since it needs Paddle and paddle2onnx; ``prepare.py`` calls it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import paddle

from exporters.paddle_network import build_network
from exporters.paddle_to_onnx import program_to_onnx
from ghostzoo.converter import convert
from ghostzoo.network.architecture import Architecture
from tests.fixtures.networks import random_arrays, write_weights

IMAGE_SIZE = 224
WIDTHS = {"GhostNet_x0_5": 0.5, "GhostNet_x1_0": 1.0, "GhostNet_x1_3": 1.3}


def make(name: str, width: float, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    architecture = Architecture.of(width, 1000)
    arrays = random_arrays(architecture)
    np.savez(folder / "arrays.npz", **arrays)
    network = build_network(arrays, architecture)
    spec = paddle.static.InputSpec([None, 3, IMAGE_SIZE, IMAGE_SIZE], "float32", "x")
    paddle.jit.save(paddle.jit.to_static(network, input_spec=[spec], full_graph=True), str(folder / "paddle"))
    program, params = folder / "paddle.json", folder / "paddle.pdiparams"
    (folder / "raw.onnx").write_bytes(program_to_onnx(program.read_bytes(), ".json", params.read_bytes()))
    weights = write_weights(folder / f"{name}_pretrained.pdparams", arrays)
    convert(weights, folder / "bundle", model=name, overwrite=True)


if __name__ == "__main__":
    for model_name, model_width in WIDTHS.items():
        make(model_name, model_width, Path(sys.argv[1], model_name))

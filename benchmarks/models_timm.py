"""Make timm's models for the benchmarks: the same random weights as a bundle and as PyTorch's own graph.

Runs in the environment that 'nox -s timm' makes; ``prepare.py`` calls it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from exporters.timm_network import build_network, calibrated_arrays, export_onnx
from ghostzoo.converter import convert
from ghostzoo.network.architecture import Architecture
from ghostzoo.weights.safetensors import dump_safetensors

IMAGE_SIZE = 224
NAMES = (
    "ghostnet_100",
    "ghostnetv2_100",
    "ghostnetv2_130",
    "ghostnetv3_100",
    "repghostnet_050",
    "repghostnet_100",
    "repghostnet_130",
)
_CALIBRATION_IMAGES = 8


def make(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    architecture = Architecture.named(name)
    pixels = np.random.default_rng(0).normal(size=(_CALIBRATION_IMAGES, 3, IMAGE_SIZE, IMAGE_SIZE))
    arrays = calibrated_arrays(architecture, pixels.astype(np.float32))
    (folder / "raw.onnx").write_bytes(export_onnx(build_network(arrays, architecture), IMAGE_SIZE))
    weights = folder / f"{name}.safetensors"
    weights.write_bytes(dump_safetensors(arrays))
    convert(weights, folder / "bundle", name=name, crop_size=IMAGE_SIZE, overwrite=True)


if __name__ == "__main__":
    for model_name in sys.argv[2:] or NAMES:
        make(model_name, Path(sys.argv[1], model_name))

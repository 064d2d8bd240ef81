"""Make what the benchmarks need, once: an environment for each peer, and the models in every peer's format.

``make bench-peers`` runs it. Environments go to ``.venv-peers``, models to ``.bench-models``; both can be deleted.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".venv-peers"
MODELS = ROOT / ".bench-models"
_DONE = "installed"

TORCH = "torch==2.13.0"
"""The training environment's version; pip takes a CPU build of it where its settings offer one (CONTRIBUTING.md)."""

PEERS = {
    "onnxruntime": ["onnxruntime", "numpy", "pillow", "opencv-python-headless"],
    "openvino": ["openvino", "numpy", "opencv-python-headless"],
    "paddle": ["paddlepaddle==3.3.1", "numpy", "opencv-python-headless", "setuptools"],
    "torch": [TORCH, "numpy", "opencv-python-headless"],
    "ncnn": ["ncnn", "pnnx", TORCH, "numpy", "opencv-python-headless"],
    "mnn": ["MNN", "numpy", "opencv-python-headless"],
}
"""Peer -> what is installed in its environment; ncnn's converter needs PyTorch."""


def model_folder(name: str) -> Path:
    """Return the folder of a model, and end the script where it was not made."""
    folder = MODELS / name
    if not (folder / "raw.onnx").exists():
        raise SystemExit(f"{folder} is missing; run 'make bench-peers'.")
    return folder


def python_of(peer: str) -> Path:
    return ENVIRONMENTS / peer / "bin" / "python"


def make_environment(peer: str) -> None:
    folder = ENVIRONMENTS / peer
    if (folder / _DONE).exists():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    subprocess.run([python_of(peer), "-m", "pip", "install", "--quiet", *PEERS[peer]], check=True)
    (folder / _DONE).touch()


def make_models() -> None:
    """Make the models, anew where what writes their graph has changed since."""
    scripts = {"export": "models.py", "timm": "models_timm.py"}
    sources = [
        *(ROOT / "benchmarks" / script for script in scripts.values()),
        *sorted((ROOT / "ghostzoo" / "network").glob("*.py")),
    ]
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    done = MODELS / _DONE
    if done.exists() and done.read_text() == state:
        return
    for group, script in scripts.items():
        python = ROOT / f".venv-{group}" / "bin" / "python"
        subprocess.run([python, ROOT / "benchmarks" / script, MODELS], check=True)
    done.write_text(state)


def convert(folder: Path) -> None:
    """Convert the raw graph to ncnn and MNN, each converter in a scratch folder: they write beside their input."""
    if (folder / "model.mnn").exists() and (folder / "model.ncnn.bin").exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"HOME": scratch}
        Path(scratch, "model.onnx").write_bytes((folder / "raw.onnx").read_bytes())
        pnnx = ["model.onnx", "inputshape=[1,3,224,224]", "fp16=0"]
        subprocess.run([python_of("ncnn").with_name("pnnx"), *pnnx], cwd=scratch, env=environment, check=True)
        mnn = ["-f", "ONNX", "--modelFile", "model.onnx", "--MNNModel", "model.mnn", "--bizCode", "benchmark"]
        subprocess.run([python_of("mnn").with_name("mnnconvert"), *mnn], cwd=scratch, env=environment, check=True)
        for name in ("model.ncnn.param", "model.ncnn.bin", "model.mnn"):
            (folder / name).write_bytes(Path(scratch, name).read_bytes())


def add_litert(folder: Path) -> None:
    """Add LiteRT's file to the bundle, where LiteRT is installed beside ghostzoo."""
    if find_spec("ai_edge_litert") is not None and not (folder / "bundle/litert/model.tflite").exists():
        words = ["export-edge", str(folder / "bundle"), "--to", "litert"]
        subprocess.run([sys.executable, "-m", "exporters", *words], cwd=ROOT, check=True)


if __name__ == "__main__":
    for each in PEERS:
        make_environment(each)
    make_models()
    for model in sorted(path.parent for path in MODELS.glob("*/paddle.json")):
        convert(model)
        add_litert(model)

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from ghostzoo.network.architecture import Architecture
from tests.fixtures.networks import random_arrays, write_weights

PADDLE2 = "GHOSTZOO_PADDLE2_PYTHON"
RUNTIME = "GHOSTZOO_RUNTIME_PYTHON"
ROOT = Path(__file__).parents[2]


def run(
    *arguments: object, python: str = sys.executable, module: str = "exporters"
) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)


@pytest.fixture(scope="session", autouse=True)
def paddle() -> None:
    pytest.importorskip("paddle", reason="PaddlePaddle is not installed here; 'make test-all' runs these tests with it")


@pytest.fixture(scope="session")
def paddle2_python() -> str:
    """The interpreter of an environment with PaddlePaddle 2.6 and NumPy 1, which writes the old formats."""
    return _interpreter(PADDLE2, "PaddlePaddle 2.6 and NumPy 1, which alone write the old formats")


@pytest.fixture(scope="session")
def runtime_python() -> str:
    """The interpreter of an environment with ghostzoo's runtime and current libraries."""
    return _interpreter(RUNTIME, "ghostzoo and a current onnx")


def _interpreter(variable: str, holds: str) -> str:
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no Python with {holds}; 'make test-all' sets it")
    return str(Path(os.environ[variable]).absolute())


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of width 0.5 with ImageNet's classes."""
    folder = tmp_path_factory.mktemp("weights")
    return write_weights(folder / "GhostNet_x0_5_pretrained.pdparams", random_arrays(Architecture.of(0.5, 1000)))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three different pictures."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(3):
        picture = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (320, 240 + index))
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


@pytest.fixture(scope="session", params=["json", "pdmodel"])
def archive(request: pytest.FixtureRequest, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inference archive as Paddle itself writes it: today's program, or the old one."""
    return _archive(request, weights, tmp_path_factory, "softmax")


@pytest.fixture(scope="session", params=["json", "pdmodel"])
def multi_label_archive(
    request: pytest.FixtureRequest, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same of a multi-label model."""
    return _archive(request, weights, tmp_path_factory, "sigmoid")


def _archive(
    request: pytest.FixtureRequest, weights: Path, tmp_path_factory: pytest.TempPathFactory, activation: str
) -> Path:
    folder = tmp_path_factory.mktemp(f"archive-{request.param}")
    python = request.getfixturevalue("paddle2_python") if request.param == "pdmodel" else sys.executable
    script = ROOT / "tests" / "fixtures" / "write_archive.py"
    subprocess.run([python, script, weights, folder, activation], check=True, capture_output=True, cwd=ROOT)
    files = sorted(path for path in folder.iterdir() if path.name.startswith("inference."))
    assert f"inference.{request.param}" in {path.name for path in files}
    target = folder / "GhostNet_x0_5_infer.tar"
    with tarfile.open(target, "w") as tar:
        for path in files:
            tar.add(path, f"GhostNet_x0_5_infer/{path.name}")
    return target

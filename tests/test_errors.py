"""Errors as their user meets them: a process's exit status and one sentence, the cause first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ghostzoo._utils.hardware import has_nvidia_gpu
from ghostzoo.catalog import list_models
from ghostzoo.engines import engine_names
from ghostzoo.engines.base import MOST_THREADS_PER_CPU
from ghostzoo.errors import nearest

PHOTO = Path(__file__).parents[1] / "examples" / "chelsea.png"
TOO_MANY = MOST_THREADS_PER_CPU * (os.cpu_count() or 1) + 1


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "env": {**os.environ, "GHOSTZOO_ENGINE": ""}, **options}
    return subprocess.run(  # type: ignore[call-overload]
        [sys.executable, "-m", "ghostzoo", *map(str, arguments)], text=True, encoding="utf-8", timeout=120, **options
    )


def error_of(*arguments: object, status: int = 1, **options: object) -> str:
    """Run a command that must fail; return its error, which must be its only line besides those of wrong usage."""
    result = run(*arguments, **options)
    assert result.returncode == status, result.stderr
    lines = result.stderr.splitlines()
    assert [line.startswith("Error: ") for line in lines].count(True) == 1, result.stderr
    assert status == 2 or len(lines) == 1, result.stderr
    return lines[-1].removeprefix("Error: ")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--precision", "fp16"], "GhostNet_x0_5_cifar10 has no fp16 graph, only fp32; take fp32, or ask"),
        (["--precision", "float16"], "There is no precision 'float16'. Did you mean fp16?"),
        (["--engine", "ncnn"], "GhostNet_x0_5_cifar10 has no files for ncnn, only for engines that read ONNX; take"),
        (["--engine", "onnx"], "There is no engine named 'onnx'. Did you mean onnxruntime?"),
        (["--device", "cupu"], "There is no device 'cupu'. Did you mean cpu?"),
        (["--device", "coreml" if sys.platform != "darwin" else "dml"], "cannot be used: it is for "),
        (["--threads", TOO_MANY], f"{TOO_MANY} threads are too many for "),
        (["--model", "GhostNet_x1_O"], "Did you mean GhostNet_x1_0?"),
    ],
)
def test_what_cannot_be_given_has_one_cause(options: list[object], sentence: str) -> None:
    error = error_of("predict", PHOTO, *options)
    assert sentence in error
    assert "install" not in error
    assert "exporters" not in error


@pytest.mark.skipif(has_nvidia_gpu(), reason="this machine has an NVIDIA GPU")
@pytest.mark.parametrize("options", [["--device", "cuda:0"], ["--device", "cuda:0", "--engine", "onnxruntime"]])
def test_a_missing_gpu_is_named(options: list[str]) -> None:
    error = error_of("predict", PHOTO, *options)
    assert error == "Device 'cuda:0' cannot be used: no NVIDIA GPU was found on this machine. Use cpu."


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("ghostnet-x1.0", list_models(), "Did you mean GhostNet_x1_0?"),
        ("GhostNet_xl_3", list_models(), "Did you mean GhostNet_x1_3?"),
        ("TRT", engine_names(), "Did you mean tensorrt?"),
        ("open-vino", engine_names(), "Did you mean openvino?"),
        ("resnet", ["a", "b"], "Known: a, b."),
    ],
)
def test_what_was_meant_is_found(name: str, known: list[str], sentence: str) -> None:
    assert nearest(name, known, {"trt": "tensorrt"}) == sentence

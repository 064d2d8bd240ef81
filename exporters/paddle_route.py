"""The other way to ONNX: Paddle's own export and paddle2onnx, run in ONNX Runtime, to hold ours against."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import paddle
import paddle2onnx
from numpy.typing import NDArray

from ghostzoo.errors import EngineError

OPSET_VERSION = 17


def export_with_paddle2onnx(network: paddle.nn.Layer, image_size: int) -> bytes:
    """Export ``network`` with ``paddle.jit.save`` and convert the program with paddle2onnx.

    Raises:
        EngineError: paddle2onnx failed.
    """
    with scratch_folder() as folder:
        prefix = folder / "network"
        spec = paddle.static.InputSpec([None, 3, image_size, image_size], "float32", "x")
        paddle.jit.save(paddle.jit.to_static(network, input_spec=[spec], full_graph=True), str(prefix))
        return program_to_onnx(prefix.with_suffix(".json"), prefix.with_suffix(".pdiparams"))


def program_to_onnx(program: Path, params: Path) -> bytes:
    """Convert a Paddle program (``.pdmodel`` or ``.json``) and its weights with paddle2onnx.

    Raises:
        EngineError: paddle2onnx failed. It only logs that, so what it wrote is checked.
    """
    with scratch_folder() as folder:
        target = folder / "raw.onnx"
        try:
            # Its default optimiser takes twenty times as long, and ONNX Runtime does that work anyway.
            paddle2onnx.export(
                str(program), str(params), save_file=str(target), opset_version=OPSET_VERSION, optimize_tool="None"
            )
            model = onnx.load(target)
            onnx.checker.check_model(model)
        except Exception as error:  # its own failures are of many kinds, down to a missing file
            raise EngineError(f"paddle2onnx could not convert {program.name}: {error}") from error
        serialized: bytes = target.read_bytes()
        return serialized


def run_onnx(model: bytes, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run any ONNX classifier on (N, 3, H, W) with ONNX Runtime's defaults; return its first output (N, classes)."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    output: NDArray[np.float32] = session.run(None, {name: pixel_values})[0]
    return output


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary working directory, for converters that write beside their input and into the current folder.

    What they print to stdout, from C++ too, goes to stderr.
    """
    before = Path.cwd()
    sys.stdout.flush()
    stdout = os.dup(1)
    with tempfile.TemporaryDirectory(prefix="ghostzoo-export-") as name:
        try:
            os.chdir(name)
            os.dup2(2, 1)
            yield Path(name)
        finally:
            sys.stdout.flush()
            os.dup2(stdout, 1)
            os.close(stdout)
            os.chdir(before)

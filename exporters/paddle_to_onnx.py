"""ONNX graphs by Paddle's own export and paddle2onnx, to compare ours with."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import onnx
import paddle

from exporters.converter_process import last_lines, run_converter
from ghostzoo.errors import EngineError

OPSET_VERSION = 17


def export_with_paddle2onnx(network: paddle.nn.Layer, image_size: int) -> bytes:
    """Export ``network`` with ``paddle.jit.save`` and convert the program with paddle2onnx.

    Raises:
        EngineError: paddle2onnx failed.
    """
    with tempfile.TemporaryDirectory(prefix="ghostzoo-export-") as folder:
        prefix = Path(folder, "network")
        spec = paddle.static.InputSpec([None, 3, image_size, image_size], "float32", "x")
        paddle.jit.save(paddle.jit.to_static(network, input_spec=[spec], full_graph=True), str(prefix))
        program, params = prefix.with_suffix(".json"), prefix.with_suffix(".pdiparams")
        return program_to_onnx(program.read_bytes(), ".json", params.read_bytes())


def program_to_onnx(program: bytes, suffix: str, params: bytes) -> bytes:
    """Convert a Paddle program with paddle2onnx.

    Args:
        program: content of the program file.
        suffix: ``.pdmodel`` or ``.json``, from which paddle2onnx infers the format.
        params: content of the ``.pdiparams`` file.

    Raises:
        EngineError: paddle2onnx failed. It only logs errors and carries on, so its output is checked.
    """
    with tempfile.TemporaryDirectory(prefix="ghostzoo-export-") as name:
        folder = Path(name)
        (folder / f"model{suffix}").write_bytes(program)
        (folder / "model.pdiparams").write_bytes(params)
        command = [sys.executable, "-m", "paddle2onnx.command", "--model_dir", ".", "--save_file", "raw.onnx"]
        command += ["--model_filename", f"model{suffix}", "--params_filename", "model.pdiparams"]
        # Its default optimiser takes twenty times as long, and ONNX Runtime optimises anyway.
        command += ["--opset_version", str(OPSET_VERSION), "--optimize_tool", "None"]
        log = run_converter("paddle2onnx", command, folder)
        try:
            data = (folder / "raw.onnx").read_bytes()
            onnx.checker.check_model(data, full_check=True)
        except Exception as error:  # the checker's errors are of many kinds
            raise EngineError(
                f"paddle2onnx wrote no valid ONNX graph ({error}). Its last output: {last_lines(log)}. "
                "Check that the versions of paddlepaddle and paddle2onnx are those of the extra 'export'."
            ) from error
        return data

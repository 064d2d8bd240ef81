"""ONNX -> ncnn, with pnnx."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from exporters.converter_process import last_lines, run_converter
from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.errors import EngineError, EngineUnavailableError


def convert(bundle: Bundle) -> dict[str, bytes]:
    """Convert the float32 graph of ``bundle``; return the files' contents by path in the bundle.

    Raises:
        EngineUnavailableError: pnnx is not installed.
        EngineError: pnnx failed.
    """
    program, side = _find_pnnx(), bundle.config.image_size
    with tempfile.TemporaryDirectory(prefix="ghostzoo-export-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(bundle.model())
        # Otherwise ncnn stores the weights as float16.
        command = [str(program), "model.onnx", f"inputshape=[1,3,{side},{side}]f32", "fp16=0"]
        log = run_converter("pnnx", command, folder)
        written = [folder / "model.ncnn.param", folder / "model.ncnn.bin"]
        try:
            return {path: file.read_bytes() for path, file in zip(CONVERTED_FILES["ncnn"], written, strict=True)}
        except OSError as error:
            raise EngineError(f"pnnx wrote no network for ncnn. Its last output: {last_lines(log)}.") from error


def tools() -> Mapping[str, str]:
    """Return the names and versions of the tools."""
    return {name: version(name) for name in ("pnnx", "ncnn")}


def _find_pnnx() -> Path:
    """Find the program in pnnx's package, which cannot be imported without PyTorch."""
    spec = find_spec("pnnx")
    name = "pnnx.exe" if sys.platform == "win32" else "pnnx"
    program = Path(spec.origin).with_name(name) if spec is not None and spec.origin else None
    if program is None or not program.is_file():
        raise EngineUnavailableError(
            "Converting to ncnn needs pnnx, which is not installed (it would bring PyTorch, which is not needed); "
            "install it with: pip install --no-deps pnnx"
        )
    return program

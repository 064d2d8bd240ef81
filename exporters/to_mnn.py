"""ONNX -> MNN, with the converter in MNN's wheel."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from exporters.converter_process import last_lines, run_converter
from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.errors import EngineError

# MNN's own command runs pip and sends telemetry; the module that it wraps does neither.
_CONVERT = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"


def convert(bundle: Bundle) -> dict[str, bytes]:
    """Convert the float32 graph of ``bundle``; return the file's content by its path in the bundle.

    Raises:
        EngineError: the converter failed.
    """
    (path,) = CONVERTED_FILES["mnn"]
    with tempfile.TemporaryDirectory(prefix="ghostzoo-export-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(bundle.model())
        arguments = ["-f", "ONNX", "--modelFile", "model.onnx", "--MNNModel", "model.mnn", "--bizCode", "ghostzoo"]
        log = run_converter("MNN's converter", [sys.executable, "-c", _CONVERT, *arguments], folder)
        try:
            return {path: (folder / "model.mnn").read_bytes()}
        except OSError as error:
            raise EngineError(f"MNN's converter wrote no network. Its last output: {last_lines(log)}.") from error


def tools() -> Mapping[str, str]:
    """Return the names and versions of the tools."""
    return {"MNN": version("MNN")}

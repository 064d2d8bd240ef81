"""ONNX -> MNN, with the converter in MNN's wheel."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from exporters.isolated import last_words, run_isolated
from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.errors import EngineError

# The command that MNN installs runs pip and reports each conversion to its makers; the module that it wraps does not.
_CONVERT = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"


def convert(bundle: Bundle) -> dict[str, bytes]:
    """Convert the float32 graph of ``bundle``; return the file by its path in the bundle.

    Raises:
        EngineError: the converter failed.
    """
    (path,) = CONVERTED_FILES["mnn"]
    with tempfile.TemporaryDirectory(prefix="ghostzoo-export-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(bundle.model())
        arguments = ["-f", "ONNX", "--modelFile", "model.onnx", "--MNNModel", "model.mnn", "--bizCode", "ghostzoo"]
        log = run_isolated("MNN's converter", [sys.executable, "-c", _CONVERT, *arguments], folder)
        try:
            return {path: (folder / "model.mnn").read_bytes()}
        except OSError as error:
            raise EngineError(f"MNN's converter wrote no network. Its last words: {last_words(log)}.") from error


def tools() -> Mapping[str, str]:
    """Names and versions of what takes part."""
    return {"MNN": version("MNN")}

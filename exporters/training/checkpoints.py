"""A run's state on disk: written under a temporary name, then renamed; read as data, never unpickled freely."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from ghostzoo.errors import InputError

FILE_NAME = "checkpoint.pt"
FORMAT = 1


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint; a kill at any moment leaves the old one or the new one whole."""
    handle, temporary = tempfile.mkstemp(prefix=f".{FILE_NAME}.", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(folder / FILE_NAME)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the run's checkpoint.

    Raises:
        InputError: there is none, or it is damaged or of another format.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise InputError(f"{folder} holds no {FILE_NAME} to resume from; start without --resume.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"{path} is no readable checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path} is no checkpoint of this version; start the run anew.")
    return state

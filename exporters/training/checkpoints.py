"""A run's state on disk: written under a temporary name, then renamed; read as data, never unpickled freely."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from ghostzoo._utils.files import write_atomically
from ghostzoo.errors import InputError

FILE_NAME = "checkpoint.pt"
FORMAT = 2


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint; a kill at any moment leaves the old one or the new one whole."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(folder / FILE_NAME, buffer.getvalue())


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill left of a checkpoint that was just being written."""
    for path in folder.glob(f".{FILE_NAME}-*.tmp"):  # as write_atomically names them
        path.unlink()


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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is no readable checkpoint ({reason}); start the run anew.") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path} is no checkpoint of this version; start the run anew.")
    return state

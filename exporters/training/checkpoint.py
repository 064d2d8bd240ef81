"""Checkpoints: how a run is interrupted by a signal, saved, and resumed."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from exporters.training.recipe import Recipe
from ghostzoo._utils.files import write_atomically
from ghostzoo.errors import GhostZooError, InputError

CHECKPOINT_FILE = "checkpoint.pt"
FORMAT = 5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint in ``folder``; if killed meanwhile, either the old or the new one is intact."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(folder / CHECKPOINT_FILE, buffer.getvalue())


def remove_partial_checkpoints(folder: Path) -> None:
    """Remove temporary files left by a process that was killed while saving."""
    for path in folder.glob(f".{CHECKPOINT_FILE}-*.tmp"):  # as write_atomically names them
        path.unlink()


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the checkpoint in ``folder`` as data: nothing in it is executed.

    Raises:
        InputError: there is none, or it is damaged or of another format.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no {CHECKPOINT_FILE} to resume from; start without --resume.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not a readable checkpoint ({reason}); start a new run.") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint of this version; start a new run.")
    return state


def check_same_run(
    state: Mapping[str, Any], folder: Path, recipe: Recipe, classes: Sequence[str], identity: Mapping[str, str]
) -> None:
    """Check that a checkpoint belongs to this run.

    Args:
        state: the checkpoint.
        folder: where it is, for the message.
        recipe: this run's recipe.
        classes: this run's classes.
        identity: hashes of what else determines this run's result, by name.

    Raises:
        InputError: it does not.
    """
    ours = recipe.to_dict()
    differences = [
        f"{key.replace('_', '-')} was {value}"
        for key, value in state["recipe"].items()
        if _as_lists(value) != _as_lists(ours.get(key))
    ]
    if list(state["classes"]) != list(classes):
        differences.append("the classes were different")
    differences += [
        f"the {name} were different" for name, value in state["identity"].items() if value != identity[name]
    ]
    if differences:
        raise InputError(
            f"{folder} holds another run ({', '.join(differences)}); resume it with its own options, or use another "
            "--out."
        )


def _as_lists(value: Any) -> Any:
    """Turn tuples into lists, as in a file."""
    return [_as_lists(each) for each in value] if isinstance(value, list | tuple) else value


class TrainingStoppedError(GhostZooError):
    """A signal ended the run; its checkpoint was saved.

    Attributes:
        signal: the signal's number.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal = signal_number


class SignalListener:
    """Remembers Ctrl-C or SIGTERM until the trainer can save a checkpoint."""

    def __init__(self) -> None:
        self.signal = 0
        """The signal's number; 0 if none was received."""

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Catch the first signal; a second one has its usual effect."""
        previous = {number: signal.getsignal(number) for number in _SIGNALS}

        def restore() -> None:
            for number, handler in previous.items():
                signal.signal(number, handler)

        def handle(number: int, frame: FrameType | None) -> None:
            self.signal = number
            restore()

        for number in _SIGNALS:
            signal.signal(number, handle)
        try:
            yield
        finally:
            restore()

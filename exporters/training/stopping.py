"""Ctrl-C and SIGTERM: the run is saved where it is, and then ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ghostzoo.errors import GhostZooError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingStoppedError(GhostZooError):
    """A signal ended the run; its checkpoint was written.

    Attributes:
        signal: the signal's number.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal = signal_number


class StopRequest:
    """Remembers a signal until the training loop is at a place where it can be resumed from."""

    def __init__(self) -> None:
        self.signal = 0
        """The signal's number; 0: none came."""

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Take the signals over; a second one acts at once, as it would have without this."""
        previous = {number: signal.getsignal(number) for number in _SIGNALS}

        def restore() -> None:
            for number, handler in previous.items():
                signal.signal(number, handler)

        def note(number: int, frame: FrameType | None) -> None:
            self.signal = number
            restore()

        for number in _SIGNALS:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()

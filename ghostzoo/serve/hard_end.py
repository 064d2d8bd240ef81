"""The end that does not wait: a thread that hangs in native code cannot be ended, only its process can."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from .logs import LineWriter

_logger = logging.getLogger("ghostzoo.serve")

FORCED_STATUS = 1
"""Exit status of a process that was ended with something left."""
_LAST_SECONDS = 1.0
"""For the last line of the log, whose reader may hang too."""


class HardEnd:
    """Ends the process once its time is over.

    Args:
        left: what is then still in hand, for the log.
        clean_up: ends other processes.
        log: what writes the log's lines.
    """

    def __init__(self, left: Callable[[], list[str]], clean_up: Callable[[], object], log: LineWriter) -> None:
        self._left = left
        self._clean_up = clean_up
        self._log = log
        self._ends: SimpleQueue[float] = SimpleQueue()
        threading.Thread(target=self._watch, name="ghostzoo-end", daemon=True).start()

    def within(self, seconds: float) -> None:
        """End the process in so many seconds at the latest; may be called by a signal handler, and again."""
        self._ends.put(time.monotonic() + seconds)

    def now(self) -> None:
        """End the process; does not return."""
        last = threading.Thread(target=self._last_steps, daemon=True)
        last.start()
        last.join(_LAST_SECONDS)
        os._exit(FORCED_STATUS)

    def _watch(self) -> None:
        end = math.inf
        while (left := end - time.monotonic()) > 0:
            try:
                end = min(end, self._ends.get(timeout=None if left == math.inf else left))
            except Empty:
                break
        self.now()

    def _last_steps(self) -> None:
        self._clean_up()
        _logger.error("The server was ended with work left.", extra={"fields": {"left": self._left()}})
        self._log.close(_LAST_SECONDS)

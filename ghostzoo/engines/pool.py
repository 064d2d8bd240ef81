"""A pool of objects that each serve one caller at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Generic, TypeVar

from .._utils.hardware import usable_cpus

_T = TypeVar("_T")


class Pool(Generic[_T]):
    """Lends objects, and makes another when all are in use; keeps as many idle ones as there are CPUs."""

    def __init__(self, make: Callable[[], _T], drop: Callable[[_T], None] = lambda _: None) -> None:
        """Begin with an empty pool.

        Args:
            make: called when none is idle, in one thread at a time.
            drop: frees an object.
        """
        self._make = make
        self._drop = drop
        self._making = Lock()
        self._idle: deque[_T] = deque()
        self._most_idle = usable_cpus()
        self._closed = False
        self._process = os.getpid()

    @contextmanager
    def lend(self) -> Iterator[_T]:
        try:
            item = self._idle.pop()
        except IndexError:
            with self._making:
                item = self._make()
        try:
            yield item
        except BaseException:  # its state is unknown, so it is not lent again
            self._drop(item)
            raise
        if self._closed or len(self._idle) >= self._most_idle:
            self._drop(item)
            return
        self._idle.append(item)
        if self._closed:  # meanwhile
            self._drop_idle()

    def close(self) -> None:
        """Drop what is idle, and what is lent as soon as it comes back. A fork leaves all that to its parent."""
        self._closed = True
        if os.getpid() != self._process:
            return
        self._drop_idle()

    def _drop_idle(self) -> None:
        while True:
            try:
                item = self._idle.pop()
            except IndexError:
                return
            self._drop(item)

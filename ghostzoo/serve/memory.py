"""The memory that all requests share while they are in hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .failures import overloaded


class Memory:
    """A budget of bytes. Used on the event loop alone.

    Args:
        limit: bytes for all requests together.
        on_rejected: called for each request that does not fit.
    """

    def __init__(self, limit: int, on_rejected: Callable[[], object]) -> None:
        self.used = 0
        self._limit = limit
        self._on_rejected = on_rejected

    @contextmanager
    def held(self, size: int = 0) -> Iterator[Callable[[int], None]]:
        """Hold ``size`` bytes until the block ends; it gets a function that holds so many more.

        Raises:
            RequestError: the budget is used up; raised by that function, too.
        """
        held = 0

        def hold(more: int) -> None:
            nonlocal held
            held += more
            self.used += more
            if self.used > self._limit:
                self._on_rejected()
                raise overloaded("The server is holding too many large requests at once; try again later.")

        try:
            hold(size)
            yield hold
        finally:
            self.used -= held

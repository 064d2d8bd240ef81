"""The memory that all requests share while they are in hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .failures import overloaded, too_large

Hold = Callable[[int], None]
"""Counts so many more bytes as one request's; fewer where the number is negative."""


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
    def held(self, size: int = 0) -> Iterator[Hold]:
        """Hold ``size`` bytes until the block ends; it gets a function that holds so many more.

        Raises:
            RequestError: the budget is used up, or was never enough; raised by that function, too.
        """
        held = 0

        def hold(more: int) -> None:
            nonlocal held
            held += more
            self.used += more
            if more <= 0 or self.used <= self._limit:
                return
            self._on_rejected()
            if held > self._limit:
                raise too_large(
                    f"This request takes more memory than the {self._limit} bytes that the server has for all of them; "
                    "send less at once."
                )
            raise overloaded("The server is holding too many large requests at once; try again later.")

        try:
            hold(size)
            yield hold
        finally:
            self.used -= held

    @contextmanager
    def counted(self, size: int) -> Iterator[None]:
        """Count ``size`` bytes until the block ends, whether there is room or not: they are there already."""
        self.used += size
        try:
            yield
        finally:
            self.used -= size

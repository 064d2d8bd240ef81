"""The memory that all requests share while they are in hand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from .request_errors import overloaded, too_large

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

    def fits(self, more: int) -> bool:
        """Whether there is room for so many bytes more."""
        return self.used + more <= self._limit

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


class Admission:
    """Lets in as many at once as there is room for, in the order in which they came. Used on the event loop alone.

    Args:
        has_room: whether one more may be let in beside so many that are in; one is let in in any case.
        patience: seconds that a turn may take while others wait.
    """

    def __init__(self, has_room: Callable[[int], bool], patience: float) -> None:
        self._has_room = has_room
        self._patience = patience
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turns: dict[asyncio.Timeout, float] = {}
        """The limit of each turn, and when it began."""
        self._called = 0
        """Of those who waited, how many have been let in and not begun."""

    @asynccontextmanager
    async def turn(self, deadline: float) -> AsyncIterator[None]:
        """Wait for a turn, which lasts until the block ends.

        Args:
            deadline: by the event loop's clock.

        Raises:
            TimeoutError: it has passed, or the turn has lasted too long while others waited.
        """
        loop = asyncio.get_running_loop()
        if self._waiting or not self._open:
            await self._wait(deadline)
        start = loop.time()
        end = min(deadline, start + self._patience) if self._waiting else deadline
        limit = asyncio.timeout_at(end)
        self._turns[limit] = start
        try:
            async with limit:
                yield
        finally:
            del self._turns[limit]
            self._call()

    @property
    def _open(self) -> bool:
        count = len(self._turns) + self._called
        return count == 0 or self._has_room(count)

    async def _wait(self, deadline: float) -> None:
        for limit, start in self._turns.items():
            if not limit.expired():
                limit.reschedule(min(limit.when() or deadline, start + self._patience))
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(called)
        try:
            async with asyncio.timeout_at(deadline):
                await called
        except BaseException:
            if called in self._waiting:
                self._waiting.remove(called)
            else:
                self._called -= 1
            self._call()
            raise
        self._called -= 1

    def _call(self) -> None:
        while self._waiting and self._open:
            self._called += 1
            called = self._waiting.popleft()
            if not called.done():
                called.set_result(None)

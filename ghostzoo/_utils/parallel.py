"""Work on many items in batches, one after the other or side by side: lazily, in order, in bounded memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain, islice, takewhile
from typing import TYPE_CHECKING, TypeVar

from ..errors import EngineError

if TYPE_CHECKING:
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")

_WAITING = 1
"""Batches that wait for a worker besides those that are worked on, so that no worker waits for the caller."""


def map_batches(
    work: Callable[[Iterable[Item]], Result], items: Iterable[Item], size: int, workers: int
) -> Generator[Result, None, None]:
    """Yield ``work(batch)`` for batches of ``size`` items, in order, computed by ``workers`` threads.

    With one worker all is done in the caller's thread: an item is taken when ``work`` asks for it. With several,
    ``items`` is iterated in the caller's thread, a few batches ahead of the results. ``work`` has to take all items of
    its batch, and finds what ``items`` raises there, in its place.

    What ``work`` raises is raised after the results of all batches before it. When the iterator is closed, by
    ``break`` or an exception, waiting batches are dropped, and those that are worked on are given no further item and
    waited for, so that no thread is left behind.
    """
    batches = _batches(items, size)
    if workers == 1:
        yield from map(work, batches)
        return
    from concurrent.futures import ThreadPoolExecutor

    process = os.getpid()
    stopped = threading.Event()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="ghostzoo")
    pending: deque[Future[Result]] = deque()
    try:
        for batch in batches:
            taken = takewhile(lambda _: not stopped.is_set(), _take(batch))
            pending.append(executor.submit(work, taken))
            if len(pending) > workers + _WAITING:
                yield _next(pending, process)
        while pending:
            yield _next(pending, process)
    finally:
        stopped.set()
        executor.shutdown(wait=True, cancel_futures=True)


def _batches(items: Iterable[Item], size: int) -> Iterator[Iterator[Item]]:
    iterator = iter(items)
    while True:
        try:
            first = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            yield _failing(error)
            return
        yield chain([first], islice(iterator, size - 1))


def _take(batch: Iterator[Item]) -> Iterator[Item]:
    """Take a batch's items now; what taking them raises comes after those that were there."""
    taken: list[Item] = []
    try:
        for item in batch:
            taken.append(item)
    except Exception as error:
        return chain(taken, _failing(error))
    return iter(taken)


def _failing(error: Exception) -> Iterator[Item]:
    raise error
    yield


def _next(pending: deque[Future[Result]], process: int) -> Result:
    if os.getpid() != process:  # the workers are threads of the parent
        raise EngineError(
            "Results that were begun before a fork come in the parent process only; call predict() again."
        )
    return pending.popleft().result()

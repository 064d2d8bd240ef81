"""One running server: its models, its scheduler, and how a request's images go through them."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import GhostZooError, ImageError
from .failures import ClientGoneError, RequestError, late
from .fetching import Fetcher
from .jobs import Answer, Call, Source
from .memory import Hold, Memory
from .metrics import Metrics
from .model_files import SharedFiles
from .options import ServeOptions
from .repository import EngineLane, Repository
from .scheduler import Scheduler

_Result = TypeVar("_Result")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, whatever its protocol."""

    request_id: str
    started: float
    """By ``time.perf_counter``; the event loop's clock may count whole milliseconds only."""
    deadline: float
    """By the event loop's clock."""
    receive: Receive | None = None
    """Where the disconnection of an HTTP client is heard, once its request's body has been read."""
    client: str | None = None
    """Its address; behind a proxy, the proxy's."""


class Service:
    """Everything that all protocols share; made within the event loop that it runs on."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.metrics = Metrics()
        self.scheduler = Scheduler(
            workers=options.workers,
            max_batch=options.max_batch,
            max_delay=options.max_delay,
            queue_size=options.queue_size,
            observer=self.metrics,
        )
        self.memory = Memory(options.limits.max_buffered_bytes, self.metrics.on_rejected)
        self.metrics.watch(waiting=lambda: self.scheduler.waiting, buffered=lambda: self.memory.used)
        self.files = SharedFiles(self.memory)
        self.repository = Repository(options, self.scheduler)
        self.stopping = asyncio.Event()
        self._fetcher = Fetcher(options.limits.image, options.url_policy, options.url_ports)
        # One thread: much of this work lets no other thread run meanwhile, and in turn it leaves gaps for the loop.
        self._aside = ThreadPoolExecutor(1, "ghostzoo-body")
        self._ended = _Ended(asyncio.get_running_loop())

    @property
    def ready(self) -> bool:
        return self.repository.ready and not self.stopping.is_set()

    async def close(self) -> None:
        """Finish what was accepted and free everything."""
        await asyncio.to_thread(self.scheduler.close)
        await self.repository.close()
        self._aside.shutdown(wait=False, cancel_futures=True)

    async def aside(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Work on a large body or answer in the thread that is there for them, one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, work, *arguments)

    async def classify(
        self, lane: EngineLane, sources: Sequence[Source], exchange: Exchange
    ) -> list[Answer | ImageError]:
        """Run images through the network: for each an answer, or why it could not be read.

        Raises:
            RequestError: the queue is full, the deadline has passed, the client has gone.
            GhostZooError: the engine failed.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        call = self._submit(lane, sources, functools.partial(self._ended.add, done))
        watch = asyncio.ensure_future(_cancel_when_gone(exchange.receive, done)) if exchange.receive else None
        try:
            async with asyncio.timeout_at(exchange.deadline):
                await done
        except TimeoutError:
            self.scheduler.cancel(call)
            raise late() from None
        except asyncio.CancelledError:
            self.scheduler.cancel(call)
            if done.cancelled() and watch is not None and watch.done():
                raise ClientGoneError from None
            raise
        finally:
            if watch is not None:
                watch.cancel()
        return [_checked(outcome) for outcome in call.outcomes]

    def _submit(self, lane: EngineLane, sources: Sequence[Source], on_done: Callable[[], object]) -> Call:
        try:
            return self.scheduler.submit(lane, sources, on_done)
        except RequestError:
            self.metrics.on_rejected()
            raise

    async def fetch(self, url: str, exchange: Exchange, hold: Hold) -> bytes | ImageError:
        """Fetch an image by its URL, or return why there is none; ``hold`` is told of the bytes as they come.

        Raises:
            RequestError: the deadline has passed, the client has gone, or ``hold`` raised it.
        """
        image = asyncio.ensure_future(self._fetcher.fetch(url, exchange.client, exchange.deadline, hold))
        watch = asyncio.ensure_future(_cancel_when_gone(exchange.receive, image)) if exchange.receive else None
        try:
            return await image
        except asyncio.CancelledError:
            if image.cancelled() and watch is not None and watch.done():
                raise ClientGoneError from None
            raise
        finally:
            if watch is not None:
                watch.cancel()


class _Ended:
    """Futures that worker threads have fulfilled; the event loop is woken once for all that are there by then."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._futures: list[asyncio.Future[None]] = []

    def add(self, future: asyncio.Future[None]) -> None:
        """Called from any thread."""
        with self._lock:
            self._futures.append(future)
            first = len(self._futures) == 1
        if first:
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        with self._lock:
            futures, self._futures = self._futures, []
        for future in futures:
            if not future.done():
                future.set_result(None)


async def _cancel_when_gone(receive: Receive, done: asyncio.Future[Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    done.cancel()


def _checked(outcome: Answer | Exception | None) -> Answer | ImageError:
    if isinstance(outcome, Answer | ImageError):
        return outcome
    if isinstance(outcome, GhostZooError):
        raise outcome
    raise RuntimeError("a worker failed; its error is in the log") from outcome

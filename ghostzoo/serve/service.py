"""One running server: its models, its scheduler, and how a request's images go through them."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import GhostZooError, ImageError
from .decoder_pool import DecoderPool
from .fetching import Fetcher
from .memory import Hold, Memory
from .metrics import Metrics
from .options import ServeOptions
from .queueing import Answer, Call, Instance, InstanceQueue, Job, Source, Window
from .repository import Repository
from .request_errors import ClientGoneError, RequestError, late, overloaded
from .scheduler import Scheduler

_Result = TypeVar("_Result")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_CLOSE_SECONDS = 2.0
"""For what is in hand at the end."""
_UNWATCHED_SECONDS = 0.1
"""Most requests are answered sooner; from then on it is looked whether the client is still there."""
_HOPELESS = 10
"""Deadlines for which all workers have to hang until the server counts as dead; slow images end before."""


@dataclass(frozen=True, slots=True)
class RequestInfo:
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
    notes: list[str] = field(default_factory=list)
    """For the log: what libraries printed about its images."""


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
            decodes=not options.decode_processes,
        )
        self.memory = Memory(options.limits.max_buffered_bytes, self.metrics.on_rejected)
        self.metrics.watch(waiting=lambda: self.scheduler.waiting, buffered=lambda: self.memory.used)
        self.verifying = asyncio.Lock()
        """Held while a file is read to be verified: one at a time."""
        self._decoders: DecoderPool | None = None
        if options.decode_processes:
            self._decoders = DecoderPool(
                options.workers,
                options.limits.image,
                options.decode_timeout,
                self.metrics.on_decoder_replaced,
                self._feed_decoders,
            )
        self.repository = Repository(options, self.scheduler)
        self.stopping = asyncio.Event()
        self._fetcher = Fetcher(options.limits.image, options.url_policy, options.url_ports)
        # One thread: much of this work lets no other thread run meanwhile, and in turn it leaves gaps for the loop.
        self._aside = ThreadPoolExecutor(1, "ghostzoo-body")
        self._ended = _Ended(asyncio.get_running_loop())

    @property
    def ready(self) -> bool:
        return self.why_not_ready is None

    @property
    def why_not_ready(self) -> str | None:
        """Why no request should be sent here."""
        if self.stopping.is_set():
            return "the server is shutting down"
        if not self.repository.ready:
            return "a model could not be loaded"
        hang = [what for what, seconds in self._stuck.items() if seconds > self.options.deadline]
        if hang:
            return f"every {hang[0]} has been busy with what it has in hand for longer than a request may take"
        return None

    @property
    def live(self) -> bool:
        """Whether the process may yet answer: what its workers hang in for this long only a restart will end."""
        return max(self._stuck.values()) <= _HOPELESS * self.options.deadline

    @property
    def _stuck(self) -> dict[str, float]:
        """Seconds for which none of a kind has come to an end of what it has in hand."""
        decoders = 0.0 if self._decoders is None else self._decoders.stuck_for
        return {"worker": self.scheduler.stuck_for, "process that decodes": decoders}

    def check_ready(self) -> None:
        """Raise ``RequestError`` where no request should be sent here."""
        reason = self.why_not_ready
        if reason is not None:
            raise overloaded(f"The server is not ready: {reason}.")

    def check_live(self) -> None:
        """Raise ``RequestError`` where the process should be restarted."""
        if not self.live:
            raise overloaded("The server is dead: all its workers hang; restart it.")

    async def load(self) -> None:
        """Load all models, and start what decodes images meanwhile.

        Raises:
            GhostZooError: a model cannot be used, or a process cannot be started.
        """
        if self._decoders is None:
            await self.repository.load_all()
            return
        self._decoders.start()
        await self.repository.load_all()
        await self._decoders.wait_until_ready()

    async def close(self) -> bool:
        """Give up what is still in hand, and free everything; return whether nothing is left.

        Nobody waits for what is in hand any more: accepted requests have been answered by now.
        """
        self._aside.shutdown(wait=False, cancel_futures=True)
        ended = await asyncio.to_thread(self.scheduler.close, _CLOSE_SECONDS)
        self.kill_decoders()
        if not ended and not await asyncio.to_thread(self.scheduler.close, _CLOSE_SECONDS):
            return False
        if self._decoders is not None:
            await self._decoders.close()
        await self.repository.close()
        return True

    @property
    def in_hand(self) -> list[str]:
        """What is being done, and for how long, in words."""
        return self.scheduler.in_hand + (self._decoders.in_hand if self._decoders is not None else [])

    def kill_decoders(self) -> None:
        if self._decoders is not None:
            self._decoders.kill()

    async def aside(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Work on a large body or answer in the thread that is there for them, one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, work, *arguments)

    async def classify(
        self, instance: Instance, sources: Sequence[Source], request_info: RequestInfo
    ) -> list[Answer | ImageError]:
        """Run images through the network: for each an answer, or why it could not be read.

        Raises:
            RequestError: the queue is full, the deadline has passed, the client has gone.
            GhostZooError: the engine failed.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        call = self._submit(
            instance, sources, functools.partial(self._ended.add, done), request_info.deadline - loop.time()
        )
        try:
            with _UntilGone(request_info.receive, done):
                async with asyncio.timeout_at(request_info.deadline):
                    await done
        except TimeoutError:
            raise late() from None
        finally:
            if not done.done() or done.cancelled():
                self.scheduler.cancel(call)
            request_info.notes.extend(call.notes)
        return [_checked(outcome) for outcome in call.outcomes]

    def _submit(
        self, instance: Instance, sources: Sequence[Source], on_done: Callable[[], object], seconds: float
    ) -> Call:
        try:
            call = self.scheduler.submit(instance, sources, on_done, time.perf_counter() + seconds)
        except RequestError:
            self.metrics.on_rejected()
            raise
        self._feed_decoders()
        return call

    def _feed_decoders(self) -> None:
        """Give the processes that decode what waits for them."""
        while self._decoders is not None and self._decoders.free and (taken := self.scheduler.take_encoded()):
            queue, job = taken
            on_done = functools.partial(self._on_decoded, queue, job)
            self._decoders.decode(job.source, queue.instance.preprocessing, on_done, job.call.deadline)

    def _on_decoded(self, queue: InstanceQueue, job: Job, outcome: Window | Exception, notes: str) -> None:
        if notes:
            job.call.notes.append(notes)
        self.scheduler.on_decoded(queue, job, outcome)

    async def fetch(self, url: str, request_info: RequestInfo, hold: Hold) -> bytes | ImageError:
        """Fetch an image by its URL, or return why there is none; ``hold`` is told of the bytes as they come.

        Raises:
            RequestError: the deadline has passed, the client has gone, or ``hold`` raised it.
        """
        image = asyncio.ensure_future(self._fetcher.fetch(url, request_info.client, request_info.deadline, hold))
        with _UntilGone(request_info.receive, image):
            return await image


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


class _UntilGone:
    """Cancels ``work`` when the HTTP client goes, within the block.

    Raises:
        ClientGoneError: in its place, where the block waited for it.
    """

    def __init__(self, receive: Receive | None, work: asyncio.Future[Any]) -> None:
        self._receive = receive
        self._work = work
        self._watching: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_UNWATCHED_SECONDS, self._begin)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._timer.cancel()
        if self._watching is None:
            return
        gone = self._work.cancelled() and self._watching.done()
        self._watching.cancel()
        if gone and isinstance(error, asyncio.CancelledError):
            raise ClientGoneError from None

    def _begin(self) -> None:
        if self._receive is not None:
            self._watching = asyncio.ensure_future(self._watch(self._receive))

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._work.cancel()


def _checked(outcome: Answer | Exception | None) -> Answer | ImageError:
    if isinstance(outcome, Answer | ImageError):
        return outcome
    if isinstance(outcome, GhostZooError):
        raise outcome
    raise RuntimeError("a worker failed; its error is in the log") from outcome

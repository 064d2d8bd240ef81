"""Decoding in processes of its own: what hangs is killed, what crashes takes nothing along but the image in hand.

The event loop hands an image to an idle process, and hears when it is done: no thread waits, which would have to get
hold of the interpreter again each time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import time
from collections import deque
from collections.abc import Callable

from ..errors import EngineUnavailableError, ImageError
from ..images.options import ImageLimits, describe
from ..images.preprocessing import Preprocessing
from .decoder_process import DecoderProcess, DecodeTask, OnDone

_logger = logging.getLogger(__name__)

OnEnd = Callable[[str], object]
"""Is told why a process was replaced."""


class _Worker:
    """One process of the pool, and its successors; used on the event loop alone."""

    def __init__(self) -> None:
        self.decoder: DecoderProcess | None = None
        self.waiting: DecodeTask | None = None
        """An image that was given to it while it has no process."""
        self.since: float | None = None
        """When it was given the image that it has not finished, by ``time.perf_counter``."""
        self.called = asyncio.Event()
        """Set where it is given an image, or is to end, while it has no process."""
        self.tried = asyncio.Event()
        """Set when its first process is ready, or cannot be started."""
        self.failure: Exception | None = None
        """Why its last process could not be started."""


class DecoderPool:
    """Processes that decode; made and used on the event loop, but for ``kill``.

    Each worker's task sees to its process from its start to its end, and then to its successor.

    Args:
        count: processes.
        limits: what an image may cost.
        timeout: seconds that decoding one image may take.
        on_end: is told why a process was replaced: ``"overdue"`` or ``"crashed"``.
        on_free: called when one more image may be given to ``decode``.
    """

    def __init__(
        self,
        count: int,
        limits: ImageLimits,
        timeout: float,
        on_end: OnEnd = lambda _: None,
        on_free: Callable[[], object] = lambda: None,
    ) -> None:
        self._limits = limits
        self._timeout = timeout
        self._on_end = on_end
        self._on_free = on_free
        self._closed = False
        self._workers = [_Worker() for _ in range(count)]
        self._tasks: list[asyncio.Task[None]] = []
        self._idle: deque[_Worker] = deque()
        """The last is taken first: few are in use where there is little to do."""

    @property
    def processes(self) -> list[int]:
        """Process ids."""
        return [worker.decoder.process.pid for worker in self._workers if worker.decoder is not None]

    @property
    def free(self) -> bool:
        """Whether an image may be given to ``decode``; after the end any may, which tells that there is none."""
        return bool(self._idle) or self._closed

    @property
    def stuck_for(self) -> float:
        """Seconds for which none has come to an end of what it has in hand; 0 where one has nothing to do."""
        now = time.perf_counter()
        return min(0.0 if worker.since is None else now - worker.since for worker in self._workers)

    @property
    def in_hand(self) -> list[str]:
        """What the processes do, and for how long, in words."""
        now = time.perf_counter()
        return [f"decoding an image for {now - worker.since:.1f} s" for worker in self._workers if worker.since]

    def start(self) -> None:
        """Start all processes; they are ready a moment later."""
        self._tasks = [asyncio.create_task(self._work(worker)) for worker in self._workers]

    async def wait_until_ready(self) -> None:
        """Return when all processes have started.

        Raises:
            EngineUnavailableError: one could not be started.
        """
        for worker in self._workers:
            await worker.tried.wait()
            if worker.failure is not None:
                raise worker.failure

    def decode(self, source: bytes, config: Preprocessing, on_done: OnDone, deadline: float = math.inf) -> None:
        """Decode an image, and cut what the network sees, as ``cut_centre(read_image(source), config)`` does it; only
        called while the pool is ``free``.

        Args:
            source: the encoded image.
            config: the model's preprocessing.
            on_done: is told the outcome, on the event loop: an ``ImageError`` if it cannot be read, takes too long, or
                has crashed the process, and an ``EngineUnavailableError`` if no process could be started.
            deadline: by ``time.perf_counter``; what is not done by then is given up.
        """
        task = DecodeTask(source, config, on_done, deadline)
        if self._closed:
            on_done(_given_up(task), "")
            return
        worker = self._idle.pop()
        worker.since = time.perf_counter()
        if worker.decoder is not None and worker.decoder.takes_images:
            worker.decoder.take(task)
        else:
            worker.waiting = task
            worker.called.set()

    def kill(self) -> None:
        """End all processes at once; what waits for one is given up. May be called from any thread."""
        self._closed = True
        for worker in self._workers:
            if worker.decoder is not None:
                worker.decoder.process.kill()

    async def close(self) -> None:
        """End all processes, and wait for their end; what is in hand is given up."""
        self._closed = True
        for worker in self._workers:
            worker.called.set()
            if worker.decoder is not None:
                worker.decoder.kill()
        await asyncio.gather(*self._tasks)

    async def _work(self, worker: _Worker) -> None:
        while not self._closed:
            image = worker.waiting
            failure = await self._run(worker)
            worker.failure = None if failure is None else _not_started(failure)
            worker.tried.set()
            if failure is None or self._closed or worker.waiting is not image:  # one that came since has its own start
                continue
            _logger.warning("A decoding process could not be started.", extra={"fields": {"reason": str(failure)}})
            if worker.waiting is not None:
                self._finish(worker, worker.waiting, worker.failure or failure)
            worker.called.clear()
            self._free(worker)  # who needs it next tries again
            await worker.called.wait()
        worker.tried.set()
        if worker.waiting is not None:
            self._finish(worker, worker.waiting, _given_up(worker.waiting))
        self._on_free()  # what waits is given up, too

    async def _run(self, worker: _Worker) -> Exception | None:
        """See to one process from its start to its end, and to its image; return why it could not be started."""
        failure: Exception | None = None
        try:
            decoder = DecoderProcess(self._limits, self._timeout, lambda: self._free(worker))
        except OSError as error:
            return error
        worker.decoder = decoder
        try:
            await decoder.wait_until_ready()
            worker.failure = None
            worker.tried.set()
            if worker.waiting is None:
                self._free(worker)
            elif decoder.takes_images:
                task, worker.waiting = worker.waiting, None
                decoder.take(task)
            if self._closed:
                decoder.kill()
            await decoder.wait_for_the_end()
            if not decoder.used:
                failure = EOFError("it has ended before it had an image")
        except (OSError, EOFError) as error:
            failure = error
            decoder.kill()
        if worker in self._idle:
            self._idle.remove(worker)
        code = await decoder.end()
        if decoder.task is not None:
            self._finish(worker, decoder.task, self._lost(decoder, decoder.task, code))
        return failure

    def _free(self, worker: _Worker) -> None:
        worker.since = None
        self._idle.append(worker)
        self._on_free()

    def _finish(self, worker: _Worker, task: DecodeTask, outcome: Exception) -> None:
        worker.since = worker.waiting = None
        task.on_done(outcome, "")

    def _lost(self, decoder: DecoderProcess, task: DecodeTask, code: int) -> ImageError:
        """Why there is no image of a process that has ended, for those who have sent it."""
        if self._closed:
            return _given_up(task)
        if decoder.overdue:
            seconds = f"{decoder.seconds:.1f}"
            reason = f"decoding it was stopped after {seconds} seconds; make it smaller, or save it as a plain JPEG"
        else:
            name = next((each.name for each in signal.Signals if each == -code), "unknown")
            how = f"signal {-code}, {name}" if code < 0 else f"exit status {code}"
            reason = f"decoding it ended the decoder ({how}); it is damaged, save it again in another format"
        fields = {"reason": reason, "bytes": len(task.source)}
        _logger.warning("A decoding process was ended and replaced.", extra={"fields": fields})
        self._on_end("overdue" if decoder.overdue else "crashed")
        return ImageError(describe(task.source), reason)


def _given_up(task: DecodeTask) -> ImageError:
    return ImageError(describe(task.source), "it was given up, for the server has ended")


def _not_started(error: Exception) -> EngineUnavailableError:
    return EngineUnavailableError(
        f"A process for decoding images could not be started ({error}); see what it wrote to stderr, or start the "
        "server with --no-decode-processes."
    )

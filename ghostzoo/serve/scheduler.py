"""Dynamic batching: images of all requests -> calls of the engines, on as many threads as there are CPUs.

Each worker thread takes whatever is most urgent: a batch that is full, that has waited long enough, or that nothing on
its way could join; or else the next image to decode. So decoding and inference share the CPUs without more threads than
CPUs, and no batch waits for an image that does not come.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import GhostZooError, ImageError
from .failures import overloaded

_logger = logging.getLogger(__name__)

Pixels = NDArray[np.float32]
Source = bytes | Pixels | ImageError
"""An encoded image, a preprocessed one, or why there is none."""


@dataclass(slots=True)
class Stages:
    """Where the time of one image went, in seconds."""

    queue: float = 0.0
    """Until a worker took it."""
    decode: float = 0.0
    """Decoding and preprocessing."""
    batch: float = 0.0
    """Waiting for its batch."""
    inference: float = 0.0
    """The engine's call for the whole batch."""
    batch_size: int = 0


@dataclass(slots=True)
class Answer:
    """The network's output for one image."""

    logits: Pixels
    """(classes,) float32, of the receiver's own."""
    stages: Stages


Outcome = Answer | Exception


class Lane(Protocol):
    """One model on one engine, as the scheduler sees it; called from many threads."""

    model: str
    engine: str

    def decode(self, source: bytes) -> Pixels: ...

    def run(self, batch: Pixels) -> Pixels: ...


class Observer(Protocol):
    """Is told what the workers do; called from many threads."""

    def on_batch(self, lane: Lane, size: int, seconds: float) -> None: ...

    def on_image(self, lane: Lane, outcome: Outcome) -> None: ...


@dataclass(slots=True, eq=False)
class Call:
    """The images of one request."""

    outcomes: list[Outcome | None]
    on_done: Callable[[], object]
    """Called once, from a worker thread, when every outcome is there."""
    missing: int
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class _Job:
    call: Call
    place: int
    source: Any
    since: float
    """When it entered the queue that it is in."""
    stages: Stages = field(default_factory=Stages)


@dataclass(slots=True, eq=False)
class _Queues:
    """What waits for one lane."""

    lane: Lane
    encoded: deque[_Job] = field(default_factory=deque)
    ready: deque[_Job] = field(default_factory=deque)
    decoding: int = 0
    running: int = 0

    @property
    def busy(self) -> bool:
        return bool(self.encoded or self.ready or self.decoding or self.running)


class Scheduler:
    """Worker threads and their bounded queue.

    Args:
        workers: threads.
        max_batch: images a call of an engine.
        max_delay: seconds that a decoded image waits for others that are on their way.
        queue_size: images that may wait, over all lanes.
        observer: is told what the workers do.
    """

    def __init__(
        self, *, workers: int, max_batch: int, max_delay: float, queue_size: int, observer: Observer | None = None
    ) -> None:
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._queue_size = queue_size
        self._observer = observer
        self._queues: dict[Lane, _Queues] = {}
        self._waiting = 0
        self._closing = False
        self._watchers = 0
        """Threads that wait for a lane to be idle."""
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"ghostzoo-worker-{index}", daemon=True)
            for index in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._waiting

    def submit(self, lane: Lane, sources: Sequence[Source], on_done: Callable[[], object]) -> Call:
        """Queue all ``sources``, or none.

        Raises:
            RequestError: the queue is full.
        """
        now = time.perf_counter()
        call = Call([source if isinstance(source, ImageError) else None for source in sources], on_done, 0)
        jobs = [_Job(call, place, source, now) for place, source in enumerate(sources) if call.outcomes[place] is None]
        call.missing = len(jobs)
        with self._changed:
            if self._closing:
                raise overloaded("The server is shutting down; send the request to another.")
            if self._waiting + len(jobs) > self._queue_size:
                raise overloaded(f"The queue is full ({self._queue_size} images wait); try again later.")
            queues = self._queues.setdefault(lane, _Queues(lane))
            for job in jobs:
                (queues.encoded if isinstance(job.source, bytes) else queues.ready).append(job)
            self._waiting += len(jobs)
            self._changed.notify(len(jobs))
        if not jobs:
            on_done()
        return call

    def cancel(self, call: Call) -> None:
        """Take the images of ``call`` out of the queue; what a worker has in hand is finished and thrown away."""
        with self._changed:
            call.cancelled = True
            for queues in self._queues.values():
                for queue in (queues.encoded, queues.ready):
                    if any(job.call is call for job in queue):
                        kept = [job for job in queue if job.call is not call]
                        self._waiting -= len(queue) - len(kept)
                        queue.clear()
                        queue.extend(kept)
            self._changed.notify_all()

    def retire(self, lane: Lane) -> None:
        """Wait until nothing of ``lane`` is queued or running, and forget it. The caller submits nothing more to it."""
        with self._changed:
            queues = self._queues.get(lane)
            if queues is not None:
                self._watchers += 1
                self._changed.wait_for(lambda: not queues.busy)
                self._watchers -= 1
                del self._queues[lane]

    def close(self) -> None:
        """Finish what was submitted, then end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                queues, jobs, decode = self._wait_for_work()
            if queues is None:
                return
            if decode:
                self._decode(queues, jobs[0])
            else:
                self._run(queues, jobs)

    def _wait_for_work(self) -> tuple[_Queues | None, list[_Job], bool]:
        """The most urgent thing to do, taken out of its queue; no queues when the scheduler ends. Holds the lock."""
        while True:
            now = time.perf_counter()
            due = [queues for queues in self._queues.values() if queues.ready and self._is_due(queues, now)]
            if due:
                queues = min(due, key=lambda item: item.ready[0].since)
                jobs = [queues.ready.popleft() for _ in range(min(self._max_batch, len(queues.ready)))]
                queues.running += 1
                return self._taken(queues, jobs, False)
            encoded = [queues for queues in self._queues.values() if queues.encoded]
            if encoded:
                queues = min(encoded, key=lambda item: item.encoded[0].since)
                queues.decoding += 1
                return self._taken(queues, [queues.encoded.popleft()], True)
            if self._closing and not any(queues.busy for queues in self._queues.values()):
                self._changed.notify_all()
                return None, [], False
            oldest = [queues.ready[0].since for queues in self._queues.values() if queues.ready]
            self._changed.wait(min(oldest) + self._max_delay - now if oldest else None)

    def _tell_watchers(self) -> None:
        """Wake those who wait for an end. Other workers sleep on: the one that asks takes what is due itself."""
        if self._closing or self._watchers:
            self._changed.notify_all()

    def _is_due(self, queues: _Queues, now: float) -> bool:
        return (
            len(queues.ready) >= self._max_batch
            or not (queues.encoded or queues.decoding)
            or queues.ready[0].since + self._max_delay <= now
        )

    def _taken(self, queues: _Queues, jobs: list[_Job], decode: bool) -> tuple[_Queues, list[_Job], bool]:
        self._waiting -= len(jobs)
        return queues, jobs, decode

    def _decode(self, queues: _Queues, job: _Job) -> None:
        start = time.perf_counter()
        job.stages.queue = start - job.since
        failure: Exception | None = None
        try:
            job.source = queues.lane.decode(job.source)
        except Exception as error:  # whatever it is, it is this image's alone, and the worker must live
            failure = _reported(error)
        end = time.perf_counter()
        job.stages.decode = end - start
        with self._changed:
            queues.decoding -= 1
            if failure is None and not job.call.cancelled:
                job.since = end
                queues.ready.append(job)
                self._waiting += 1
            self._tell_watchers()
        if failure is not None:
            self._finish(queues.lane, [job], [failure])

    def _run(self, queues: _Queues, jobs: list[_Job]) -> None:
        start = time.perf_counter()
        for job in jobs:
            waited = start - job.since
            if job.stages.decode:
                job.stages.batch = waited
            else:
                job.stages.queue = waited
        outcomes: list[Outcome]
        try:
            logits = queues.lane.run(np.stack([job.source for job in jobs]))
            seconds = time.perf_counter() - start
            outcomes = [Answer(row, job.stages) for row, job in zip(logits, jobs, strict=True)]
            for job in jobs:
                job.stages.inference, job.stages.batch_size = seconds, len(jobs)
            if self._observer is not None:
                self._observer.on_batch(queues.lane, len(jobs), seconds)
        except Exception as error:  # the worker must live
            outcomes = [_reported(error)] * len(jobs)
        with self._changed:
            queues.running -= 1
            self._tell_watchers()
        self._finish(queues.lane, jobs, outcomes)

    def _finish(self, lane: Lane, jobs: Sequence[_Job], outcomes: Sequence[Outcome]) -> None:
        done = []
        with self._changed:
            for job, outcome in zip(jobs, outcomes, strict=True):
                job.call.outcomes[job.place] = outcome
                job.call.missing -= 1
                if job.call.missing == 0 and not job.call.cancelled:
                    done.append(job.call)
        for call in done:
            call.on_done()
        if self._observer is not None:
            for outcome in outcomes:
                self._observer.on_image(lane, outcome)


def _reported(error: Exception) -> Exception:
    if not isinstance(error, GhostZooError):
        _logger.error("A worker failed.", exc_info=error)
    return error

"""Dynamic batching: images of all requests -> calls of the engines, on about as many threads as there are CPUs.

Each worker thread takes whatever is most urgent: a batch that is full, that has waited long enough, or that nothing on
its way could join; or else, where no processes decode, the next image to decode. So no batch waits for an image that
does not come.

On CPUs a worker that has nothing else to do takes what is ready at once while there is an idle CPU: a fuller batch
saves a tenth of the time of an image, and an idle CPU loses all of it. For the same reason what is ready is shared
between the workers that are free. Where processes decode and all CPUs are busy, a batch rather fills up: each call has
a worker wait for the interpreter, which the event loop has.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakSet

from ..errors import GhostZooError, ImageError
from .queueing import Answer, Call, Instance, InstanceQueue, Job, Observer, Outcome, Source, Window, network_input
from .request_errors import overloaded

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Task:
    """What a worker does next."""

    queue: InstanceQueue
    jobs: list[Job]
    decode: bool
    alone: bool = False

    def __str__(self) -> str:
        instance = self.queue.instance
        work = "decoding" if self.decode else "running"
        return f"{work} {len(self.jobs)} image(s) for {instance.model} on {instance.engine}"


class Scheduler:
    """Worker threads and their bounded queue.

    Args:
        workers: threads.
        max_batch: images a call of an engine.
        max_delay: seconds that a decoded image waits for others that are on their way.
        queue_size: images that may wait, over all instances.
        observer: is told what the workers do.
        decodes: whether the workers decode, too; otherwise somebody else calls ``take_encoded`` and ``on_decoded``.
    """

    def __init__(
        self,
        *,
        workers: int,
        max_batch: int,
        max_delay: float,
        queue_size: int,
        observer: Observer | None = None,
        decodes: bool = True,
    ) -> None:
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._queue_size = queue_size
        self._observer = observer
        self._decodes = decodes
        self._queues: dict[Instance, InstanceQueue] = {}
        self._retired: WeakSet[Instance] = WeakSet()
        self._waiting = 0
        self._closing = False
        self._idle = 0
        self._in_hand: list[tuple[float, _Task] | None] = [None] * workers
        """What each worker does, and since when."""
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        """Workers wait for it. One that comes to an end wakes no other: it takes what is due itself."""
        self._finished = threading.Condition(lock)
        """Those wait for it who want an instance to be idle."""
        self._threads = [
            threading.Thread(target=self._work, args=(index,), name=f"ghostzoo-worker-{index}", daemon=True)
            for index in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._waiting

    @property
    def idle(self) -> int:
        """Workers that have nothing to do."""
        return self._idle

    @property
    def stuck_for(self) -> float:
        """Seconds for which no worker has come to an end of what it has in hand; 0 where one has nothing to do."""
        now = time.perf_counter()
        return min(0.0 if task is None else now - task[0] for task in self._in_hand)

    @property
    def in_hand(self) -> list[str]:
        """What the workers do, and for how long, in words."""
        now = time.perf_counter()
        return [f"{task} for {now - since:.1f} s" for since, task in filter(None, self._in_hand)]

    def submit(
        self, instance: Instance, sources: Sequence[Source], on_done: Callable[[], object], deadline: float = math.inf
    ) -> Call:
        """Queue all ``sources``, or none; ``deadline``, by ``time.perf_counter``, is what the instance is told.

        Raises:
            RequestError: the queue is full, or the instance was retired.
        """
        now = time.perf_counter()
        call = Call([source if isinstance(source, ImageError) else None for source in sources], on_done, 0, deadline)
        jobs = [Job(call, place, source, now) for place, source in enumerate(sources) if call.outcomes[place] is None]
        call.missing = len(jobs)
        with self._changed:
            if self._closing:
                raise overloaded("The server is shutting down; send the request to another.")
            if self._waiting + len(jobs) > self._queue_size:
                raise overloaded(f"The queue is full ({self._queue_size} images wait); try again later.")
            if instance in self._retired:
                raise overloaded(f"{instance.model} is being loaded anew; try again.")
            if instance not in self._queues:
                self._queues[instance] = InstanceQueue(instance, self._max_batch, self._max_delay)
            queue = self._queues[instance]
            for job in jobs:
                (queue.encoded if isinstance(job.source, bytes) else queue.ready).append(job)
            self._waiting += len(jobs)
            self._changed.notify(sum(self._decodes or not isinstance(job.source, bytes) for job in jobs))
        if not jobs:
            on_done()
        return call

    def cancel(self, call: Call) -> None:
        """Take the images of ``call`` out of the queue; what a worker has in hand is finished and thrown away."""
        with self._changed:
            call.cancelled = True
            for queue in self._queues.values():
                for jobs in (queue.encoded, queue.ready):
                    if any(job.call is call for job in jobs):
                        kept = [job for job in jobs if job.call is not call]
                        self._waiting -= len(jobs) - len(kept)
                        jobs.clear()
                        jobs.extend(kept)
            self._wake()
            self._finished.notify_all()

    def take_encoded(self) -> tuple[InstanceQueue, Job] | None:
        """Take the image that is to be decoded next, if there is one."""
        with self._changed:
            queue = self._first_encoded()
            if queue is None:
                return None
            self._waiting -= 1
            return queue, queue.take_encoded(time.perf_counter())

    def on_decoded(self, queue: InstanceQueue, job: Job, outcome: Window | Exception) -> None:
        """Take over an image that ``take_encoded`` gave out."""
        now = time.perf_counter()
        job.stages.decode = now - job.since
        with self._changed:
            queue.decoding -= 1
            if not isinstance(outcome, Exception) and not job.call.cancelled:
                job.source, job.since = outcome, now
                queue.ready.append(job)
                self._waiting += 1
            self._finished.notify_all()
            if not self._decodes:
                self._wake(look_again=len(queue.ready) == 1)
        if isinstance(outcome, Exception):
            self._finish(queue.instance, [job], [_reported(outcome)])

    def retire(self, instance: Instance) -> None:
        """Wait until nothing of ``instance`` is queued or running, and forget it; nothing more is taken for it."""
        with self._changed:
            self._retired.add(instance)
            queue = self._queues.get(instance)
            if queue is not None:
                self._finished.wait_for(lambda: not queue.busy)
                del self._queues[instance]

    def close(self, timeout: float | None = None) -> bool:
        """Finish what was submitted, then end the threads; return whether all have ended after ``timeout`` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        end = None if timeout is None else time.perf_counter() + timeout
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.perf_counter()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, index: int) -> None:
        while True:
            self._in_hand[index] = None
            with self._changed:
                task = self._wait_for_work()
            if task is None:
                return
            self._in_hand[index] = (time.perf_counter(), task)
            if task.decode:
                self._decode(task.queue, task.jobs[0])
            else:
                self._run(task.queue, task.jobs, task.alone)

    def _wait_for_work(self) -> _Task | None:
        """The most urgent thing to do, taken out of its queue; ``None`` when the scheduler ends. Holds the lock."""
        while True:
            now = time.perf_counter()
            task = self._next_task(now)
            if task is not None:
                self._waiting -= len(task.jobs)
                return task
            if self._closing and not any(queue.busy for queue in self._queues.values()):
                self._changed.notify_all()
                return None
            due = min((queue.due for queue in self._queues.values()), default=math.inf)
            self._idle += 1
            self._changed.wait(None if due == math.inf else due - now)
            self._idle -= 1

    def _next_task(self, now: float) -> _Task | None:
        queues = self._queues.values()
        urgent = [queue for queue in queues if queue.due <= now]
        if urgent:
            return self._batch_of(min(urgent, key=lambda queue: queue.ready[0].since))
        if self._decodes and (encoded := self._first_encoded()) is not None:
            return _Task(encoded, [encoded.take_encoded(now)], decode=True)
        early = [queue for queue in queues if queue.ready and queue.instance.side_by_side]
        if early and self._has_idle_cpu(self._idle):
            return self._batch_of(min(early, key=lambda queue: queue.ready[0].since))
        return None

    def _first_encoded(self) -> InstanceQueue | None:
        """Where the image waits that came first."""
        queues = [queue for queue in self._queues.values() if queue.encoded]
        return min(queues, key=lambda queue: queue.encoded[0].since, default=None)

    @property
    def _decoding(self) -> int:
        """Images that others than the workers decode."""
        return 0 if self._decodes else sum(queue.decoding for queue in self._queues.values())

    def _has_idle_cpu(self, idle: int) -> bool:
        """Whether fewer are at work than there are CPUs, as far as a worker can see.

        Args:
            idle: workers that do nothing, beside this one.
        """
        busy = len(self._threads) - 1 - idle + self._decoding
        return self._decodes or busy < max(1, len(self._threads) - 1)

    def _wake(self, *, look_again: bool = False) -> None:
        """Wake a worker if there is something for it to do, or if it should ``look_again`` at how long to wait."""
        queues = [queue for queue in self._queues.values() if queue.ready]
        if not self._idle or not (queues or self._closing):
            return
        now = time.perf_counter()
        is_early = any(queue.instance.side_by_side for queue in queues) and self._has_idle_cpu(self._idle - 1)
        if look_again or is_early or self._closing or any(queue.due <= now for queue in queues):
            self._changed.notify()

    def _batch_of(self, queue: InstanceQueue) -> _Task:
        if self._decodes:
            jobs = queue.take_batch(self._idle + queue.decoding, len(queue.encoded))
        else:
            jobs = queue.take_batch(max(0, self._idle - self._decoding), 0)
        if queue.ready and self._idle:
            self._changed.notify()
        is_last = self._waiting == len(jobs) == 1 and not self._decoding
        return _Task(queue, jobs, decode=False, alone=is_last and self._idle == len(self._threads) - 1)

    def _decode(self, queue: InstanceQueue, job: Job) -> None:
        outcome: Window | Exception
        try:
            outcome = queue.instance.decode(job.source)
        except Exception as error:  # whatever it is, it is this image's alone, and the worker must live
            outcome = error
        self.on_decoded(queue, job, outcome)

    def _run(self, queue: InstanceQueue, jobs: list[Job], alone: bool) -> None:
        start = time.perf_counter()
        for job in jobs:
            waited = start - job.since
            if job.stages.decode:
                job.stages.batch = waited
            else:
                job.stages.queue = waited
        outcomes: list[Outcome]
        try:
            logits = queue.instance.run(
                network_input([job.source for job in jobs], queue.instance.preprocessing), alone=alone
            )
            seconds = time.perf_counter() - start
            outcomes = [Answer(row, job.stages) for row, job in zip(logits, jobs, strict=True)]
            for job in jobs:
                job.stages.inference, job.stages.batch_size = seconds, len(jobs)
            if self._observer is not None:
                self._observer.on_batch(queue.instance, len(jobs), seconds)
        except Exception as error:  # the worker must live
            outcomes = [_reported(error)] * len(jobs)
        with self._changed:
            queue.running -= 1
            self._finished.notify_all()
        self._finish(queue.instance, jobs, outcomes)

    def _finish(self, instance: Instance, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
        done = []
        with self._changed:
            for job, outcome in zip(jobs, outcomes, strict=True):
                job.call.outcomes[job.place] = outcome
                job.call.missing -= 1
                job.source = None  # an idle worker still has hold of its last job, and the image may be large
                if job.call.missing == 0 and not job.call.cancelled:
                    done.append(job.call)
        for call in done:
            call.on_done()
        if self._observer is not None:
            for outcome in outcomes:
                self._observer.on_image(instance, outcome)


def _reported(error: Exception) -> Exception:
    if not isinstance(error, GhostZooError):
        _logger.error("A worker failed.", exc_info=error)
    # Its traceback has hold of the worker's frame, and so of the image; that frame has hold of the error, so that both
    # would stay until the garbage collector comes, however large they are.
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)

"""A simulation of one ``ghostzoo serve``: arrivals, the rule of batching, workers, and CPUs that all of it shares."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

_WARM = 0.1
"""Share of the simulated time that is not counted."""


@dataclass(frozen=True)
class Costs:
    """Processor time in seconds."""

    decode: float
    """Of an image, with preprocessing."""
    network: tuple[float, ...]
    """Of a batch of 1, 2, ... images."""
    request: float
    """Of the server's thread that speaks HTTP."""
    client: float = 0.0
    """Of the client for a request, where it shares the CPUs."""

    @property
    def image(self) -> float:
        """Of the server for an image in full batches: what bounds it."""
        return self.request + self.decode + self.network[-1] / len(self.network)


@dataclass
class Image:
    since: float
    due: float = 0.0
    """When it waits no longer for others to share a call with."""


@dataclass
class Work:
    """Something that takes processor time, and what follows."""

    left: float
    then: Callable[[], None]


@dataclass
class Simulation:
    """One server; ``run`` returns the latencies of the images that were answered, by when they came."""

    costs: Costs
    cpus: float
    workers: int
    """As many processes decode."""
    max_batch: int = 8
    max_delay: float = 0.005
    now: float = 0.0
    batches: list[int] = field(default_factory=list)
    answered: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._running: list[Work] = []
        self._single: dict[str, deque[Work]] = {"server": deque(), "client": deque()}
        self._encoded: deque[Image] = deque()
        self._ready: deque[Image] = deque()
        self._decoding = self._busy = 0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def run(self, seconds: float, rate: float | None = None, clients: int = 1, seed: int = 0) -> list[float]:
        """Let images come at random at ``rate`` a second, or from ``clients`` that ask again once answered."""
        if rate is None:
            for _ in range(clients):
                self._ask(0.0)
        else:
            for moment in np.cumsum(np.random.default_rng(seed).exponential(1 / rate, math.ceil(rate * seconds))):
                self._at(float(moment), lambda moment=float(moment): self._ask(moment))  # type: ignore[misc]
        self._again = rate is None
        while self.now < seconds and (self._running or self._timers):
            self._step()
        return [latency for since, latency in self.answered if since >= _WARM * seconds]

    def _step(self) -> None:
        """Go on to whatever ends next: what runs shares the CPUs."""
        speed = min(1.0, self.cpus / len(self._running)) if self._running else 1.0
        first = min(self._running, key=lambda work: work.left, default=None)
        due = self._timers[0][0] if self._timers else math.inf
        if first is None or due < self.now + first.left / speed:
            self._pass(due - self.now, speed)
            heapq.heappop(self._timers)[2]()
        else:
            self._pass(first.left / speed, speed)
            self._running.remove(first)
            first.then()
        self._give_work()

    def _pass(self, seconds: float, speed: float) -> None:
        self.now += seconds
        for work in self._running:
            work.left -= seconds * speed

    def _at(self, moment: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (moment, next(self._count), then))

    def _on(self, thread: str, seconds: float, then: Callable[[], None]) -> None:
        """Run something on a thread that does one thing at a time."""
        queue = self._single[thread]

        def ended() -> None:
            queue.popleft()
            if queue:
                self._running.append(queue[0])
            then()

        queue.append(Work(seconds, ended))
        if len(queue) == 1:
            self._running.append(queue[0])

    def _ask(self, since: float) -> None:
        image = Image(since)
        half = self.costs.request / 2
        self._on("client", self.costs.client, lambda: self._on("server", half, lambda: self._encoded.append(image)))

    def _answer(self, images: list[Image]) -> None:
        for image in images:
            self._on("server", self.costs.request / 2, lambda image=image: self._answered(image))  # type: ignore[misc]

    def _answered(self, image: Image) -> None:
        self.answered.append((image.since, self.now - image.since))
        if self._again:
            self._ask(self.now)

    def _give_work(self) -> None:
        """The rule of ``Scheduler._next_task`` for a model whose calls run side by side, as on CPUs, beside processes
        that decode."""
        while self._encoded and self._decoding < self.workers:
            self._decode(self._encoded.popleft())
        while self._ready and self._busy < self.workers and (self._is_due or self._has_idle_cpu):
            self._call()

    @property
    def _is_due(self) -> bool:
        none_comes = not (self._encoded or self._decoding)
        return len(self._ready) >= self.max_batch or none_comes or self._ready[0].due <= self.now

    @property
    def _has_idle_cpu(self) -> bool:
        return self._busy + self._decoding < max(1, self.workers - 1)

    def _decode(self, image: Image) -> None:
        def decoded() -> None:
            self._decoding -= 1
            image.due = self.now + self.max_delay
            self._ready.append(image)
            self._at(image.due, lambda: None)

        self._decoding += 1
        self._running.append(Work(self.costs.decode, decoded))

    def _call(self) -> None:
        idle = self.workers - self._busy - 1
        share = math.ceil(len(self._ready) / (1 + max(0, idle - self._decoding)))
        images = [self._ready.popleft() for _ in range(min(self.max_batch, len(self._ready), share))]

        def called() -> None:
            self._busy -= 1
            self._answer(images)

        self._busy += 1
        self.batches.append(len(images))
        self._running.append(Work(self.costs.network[len(images) - 1], called))

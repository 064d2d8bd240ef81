"""What the scheduler works on: the images of requests, the models that they are for, and what becomes of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..images.preprocessing import Preprocessing
from ..images.transform import normalise

Window = NDArray[np.uint8]
"""What is cut from a decoded image, (crop_size, crop_size, 3), C-contiguous; a worker normalises it just before the
engine's call."""
Pixels = NDArray[np.float32]
Source = bytes | Pixels | ImageError
"""An encoded image, a preprocessed one, or why there is none."""


@dataclass(slots=True)
class Stages:
    """Where the time of one image went, in seconds."""

    queue: float = 0.0
    """Until a worker, or a process that decodes, took it."""
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


class Instance(Protocol):
    """One model on one engine, as the scheduler sees it; called from many threads."""

    model: str
    engine: str
    preprocessing: Preprocessing
    side_by_side: bool
    """Whether calls from several threads run at the same time, each on a CPU of its own. Otherwise, as on a GPU, images
    are better off in one large call."""

    def decode(self, source: bytes) -> Window:
        """Decode an image, and cut from it what the network sees."""
        ...

    def run(self, batch: Pixels, *, alone: bool) -> Pixels:
        """Run the network; ``alone`` says that nothing else is there to be done, so that all CPUs may be taken."""
        ...


class Observer(Protocol):
    """Is told what the workers do; called from many threads."""

    def on_batch(self, instance: Instance, size: int, seconds: float) -> None: ...

    def on_image(self, instance: Instance, outcome: Outcome) -> None: ...


@dataclass(slots=True, eq=False)
class Call:
    """The images of one request."""

    outcomes: list[Outcome | None]
    on_done: Callable[[], object]
    """Called once, from any thread, when every outcome is there."""
    missing: int
    deadline: float
    """By ``time.perf_counter``: nobody waits for the outcomes any more."""
    cancelled: bool = False
    notes: list[str] = field(default_factory=list)
    """What libraries printed about the images."""


@dataclass(slots=True, eq=False)
class Job:
    """One image of a call, on its way."""

    call: Call
    place: int
    source: Any
    since: float
    """When it entered the queue that it is in, or decoding began."""
    stages: Stages = field(default_factory=Stages)


@dataclass(slots=True, eq=False)
class InstanceQueue:
    """What waits for one instance, and what is done for it; guarded by the scheduler's lock."""

    instance: Instance
    max_batch: int
    max_delay: float
    encoded: deque[Job] = field(default_factory=deque)
    ready: deque[Job] = field(default_factory=deque)
    """Decoded, or sent as pixels."""
    decoding: int = 0
    running: int = 0

    @property
    def busy(self) -> bool:
        return bool(self.encoded or self.ready or self.decoding or self.running)

    @property
    def due(self) -> float:
        """From when on a batch of what is ready is to be run, by ``time.perf_counter``; never is infinite."""
        if not self.ready:
            return math.inf
        if len(self.ready) >= self.max_batch or not (self.encoded or self.decoding):
            return 0.0
        return self.ready[0].since + self.max_delay

    def take_batch(self, others: int, coming: int) -> list[Job]:
        """Take the images of one call; side by side, no more than the worker's share, so that none is left idle.

        Args:
            others: workers that may take some, too.
            coming: images that these will find besides.
        """
        size = min(self.max_batch, len(self.ready))
        if self.instance.side_by_side:
            size = min(size, math.ceil((len(self.ready) + coming) / (1 + others)))
        self.running += 1
        return [self.ready.popleft() for _ in range(size)]

    def take_encoded(self, now: float) -> Job:
        """Take the image that is to be decoded next."""
        self.decoding += 1
        job = self.encoded.popleft()
        job.stages.queue = now - job.since
        job.since = now
        return job


def network_input(sources: Sequence[Window | Pixels], config: Preprocessing) -> Pixels:
    """The network's input, (images, 3, crop_size, crop_size). Each call of OpenCV's lets another thread have the
    interpreter, which may keep it for milliseconds: as few as there can be."""
    if all(source.dtype == np.uint8 for source in sources):
        windows = np.frombuffer(b"".join(map(memoryview, sources)), np.uint8)  # type: ignore[arg-type]
        return normalise(windows.reshape(len(sources), *sources[0].shape), config)
    pixels = [normalise(source, config) if source.dtype == np.uint8 else source for source in sources]  # type: ignore[arg-type]
    return cast(Pixels, pixels[0][np.newaxis] if len(pixels) == 1 else np.stack(pixels))

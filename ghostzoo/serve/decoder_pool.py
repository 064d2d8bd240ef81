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
from collections.abc import Callable, Coroutine

from ..errors import EngineUnavailableError, ImageError
from ..images.options import ImageLimits, describe
from ..images.preprocessing import Preprocessing
from .decoder_process import DecoderProcess, DecodeTask, OnDone, SharedMemory

_logger = logging.getLogger(__name__)

_LEAST_SECONDS = 1.0
"""An image has at least these, whatever its request's deadline: to replace a process costs more than most images."""
Note = Callable[[str], object]


class DecoderPool:
    """Processes that decode; made and used on the event loop, but for ``kill``.

    Args:
        count: processes.
        limits: what an image may cost.
        timeout: seconds that decoding one image may take.
        on_end: is told why a process was replaced: ``"overdue"`` or ``"crashed"``.
        on_free: called when one more image may be decoded.
    """

    def __init__(
        self,
        count: int,
        limits: ImageLimits,
        timeout: float,
        on_end: Note = lambda _: None,
        on_free: Callable[[], object] = lambda: None,
    ) -> None:
        self._limits = limits
        self._timeout = timeout
        self._on_end = on_end
        self._on_free = on_free
        self._closed = False
        self._replacing: set[asyncio.Task[None]] = set()
        self._decoders = [self._new(SharedMemory()) for _ in range(count)]
        self._idle: deque[DecoderProcess] = deque()
        """The last is taken first: few are in use where there is little to do."""

    @property
    def processes(self) -> list[int]:
        """Process ids."""
        return [decoder.process.pid for decoder in self._decoders if decoder.process is not None]

    @property
    def free(self) -> bool:
        """Whether an image may be given to ``decode``."""
        return bool(self._idle)

    @property
    def stuck_for(self) -> float:
        """Seconds for which none has come to an end of what it has in hand; 0 where one has nothing to do."""
        now = time.perf_counter()
        tasks = [decoder.task for decoder in self._decoders]
        return min(0.0 if task is None else now - task.since for task in tasks)

    async def start(self) -> None:
        """Start all processes, and return when they are ready.

        Raises:
            EngineUnavailableError: one could not be started.
        """
        try:
            await asyncio.gather(*(decoder.start() for decoder in self._decoders))
        except (OSError, EOFError) as error:
            raise _not_started(error) from error
        self._idle.extend(self._decoders)

    def decode(self, source: bytes, config: Preprocessing, on_done: OnDone, deadline: float = math.inf) -> None:
        """Decode an image, and cut what the network sees, as ``cut_centre(read_image(source), config)`` does it.

        Args:
            source: the encoded image.
            config: the model's preprocessing.
            on_done: is told the outcome, on the event loop: an ``ImageError`` if it cannot be read, takes too long, or
                has crashed the process, and an ``EngineUnavailableError`` if there is no process.
            deadline: by ``time.perf_counter``; what is not done by then is given up.
        """
        start = time.perf_counter()
        due = min(start + self._timeout, max(deadline, start + _LEAST_SECONDS))
        decoder = self._idle.pop()
        task = DecodeTask(source, config, on_done, start, due)
        if decoder.alive:
            decoder.take(task)
        else:
            decoder.task, decoder.dismissed = task, True
            self._in_background(self._replace(decoder, task))

    def kill(self) -> None:
        """End all processes at once; what waits for one gets an error. May be called from any thread."""
        self._closed = True
        for decoder in self._decoders:
            decoder.kill()

    async def close(self) -> None:
        """End all processes, and wait for their end."""
        self.kill()
        await asyncio.gather(*self._replacing)
        self.kill()  # what was started meanwhile
        for decoder in self._decoders:
            await asyncio.to_thread(decoder.end)
            decoder.close()
            decoder.shared.close()

    def _new(self, shared: SharedMemory) -> DecoderProcess:
        return DecoderProcess(shared, self._limits, self._free, self._ended)

    def _free(self, decoder: DecoderProcess) -> None:
        self._idle.append(decoder)
        self._on_free()

    def _ended(self, decoder: DecoderProcess) -> None:
        """A process has died, with an image in hand or without."""
        if decoder.dismissed or (self._closed and decoder.task is None):
            return
        decoder.dismissed = True
        if decoder in self._idle:
            self._idle.remove(decoder)
        self._in_background(self._give_up(decoder) if decoder.task is not None else self._replace(decoder))

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    async def _give_up(self, decoder: DecoderProcess) -> None:
        """Tell those who have sent an image that there is none, and replace the process."""
        code = await asyncio.to_thread(decoder.end)
        task, decoder.task = decoder.task, None
        if task is not None:
            task.on_done(self._failure(decoder, task, code), "")
        await self._replace(decoder)

    def _failure(self, decoder: DecoderProcess, task: DecodeTask, code: int) -> ImageError:
        source = task.source
        if self._closed:
            return ImageError(describe(source), "it was given up, for the server has ended")
        if decoder.overdue:
            seconds = time.perf_counter() - task.since
            reason = f"decoding it was stopped after {seconds:.1f} seconds; make it smaller, or save it as a plain JPEG"
        else:
            name = next((each.name for each in signal.Signals if each == -code), "unknown")
            how = f"signal {-code}, {name}" if code < 0 else f"exit status {code}"
            reason = f"decoding it ended the decoder ({how}); it is damaged, save it again in another format"
        fields = {"reason": reason, "bytes": len(source)}
        _logger.warning("A decoding process was ended and replaced.", extra={"fields": fields})
        self._on_end("overdue" if decoder.overdue else "crashed")
        return ImageError(describe(source), reason)

    async def _replace(self, old: DecoderProcess, task: DecodeTask | None = None) -> None:
        """Put another process in the place of one that has ended, for ``task`` if there is one."""
        decoder = self._new(old.shared)
        old.close()
        try:
            await asyncio.to_thread(old.end)
            if self._closed:
                raise BrokenPipeError("the server is shutting down")
            self._decoders[self._decoders.index(old)] = decoder
            decoder.task = task
            await decoder.start()
        except (OSError, EOFError) as error:  # who needs it next tries again
            decoder.kill()
            decoder.task, decoder.dismissed = None, True
            if task is not None:
                task.on_done(_not_started(error), "")
            self._free(decoder)
        else:
            if task is None:
                self._free(decoder)
            else:
                decoder.take(task)


def _not_started(error: Exception) -> EngineUnavailableError:
    return EngineUnavailableError(
        f"A process for decoding images could not be started ({error or 'it has ended'}); see what it wrote to stderr, "
        "or start the server with --no-decode-processes."
    )

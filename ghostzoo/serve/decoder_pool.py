"""Decoding in processes of its own: what hangs is killed, what crashes takes nothing along but the image in hand.

The event loop hands an image to an idle process, and hears when it is done: no thread waits, which would have to get
hold of the interpreter again each time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import cast

import numpy as np

from ..errors import EngineUnavailableError, ImageError
from ..images.options import ImageLimits, describe
from ..images.preprocessing import Preprocessing
from .decoder import ANSWER, FAILED, PIXELS, READY, REFUSED, REQUEST, SHARED, SLOT, encode_preprocessing, shared_memory
from .options import API_KEY_VARIABLE
from .queueing import Window

_logger = logging.getLogger(__name__)

_LEAST_SECONDS = 1.0
"""An image has at least these, whatever its request's deadline: to replace a process costs more than most images."""
_START_SECONDS = 60.0
_END_SECONDS = 1.0
"""A process that no longer answers is dead after these, or killed."""
_MOST_TEXT = 64 * 1024

_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    # glibc would hand memory back after each image, and get it again page by page: a tenth of a photo's time.
    "MALLOC_MMAP_THRESHOLD_": str(8 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20),
}
_SECRETS = (API_KEY_VARIABLE, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""What a process that reads the bytes of strangers need not know."""
_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "sys.path[:] = sys.argv[1:-2]; from ghostzoo.serve.decoder import main; main()"
)
"""Signals to the whole group are the server's to obey: it first finishes the images that it has accepted."""

Note = Callable[[str], object]
OnDone = Callable[[Window | Exception, str], object]
"""Is told what an image looks like or why it cannot be had, and what the decoder printed about it."""


@dataclass(slots=True)
class _Task:
    """An image in hand."""

    source: bytes
    config: Preprocessing
    on_done: OnDone
    since: float
    """By ``time.perf_counter``."""
    due: float


class _Decoder(asyncio.Protocol):
    """One process, with one image in hand at most; used on the event loop, but for what says otherwise.

    Args:
        on_free: called when it can take an image, again.
        on_end: called once, when it has ended by itself, or is overdue.
    """

    def __init__(
        self,
        shared: _SharedMemory,
        limits: ImageLimits,
        on_free: Callable[[_Decoder], object],
        on_end: Callable[[_Decoder], object],
    ) -> None:
        self.shared = shared
        self.task: _Task | None = None
        self.overdue = False
        self.dismissed = False
        """Somebody sees to its end, and to its successor."""
        self._limits = json.dumps(vars(limits))
        self._on_free = on_free
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    async def start(self) -> None:
        """Start the process, and return when it can take an image.

        Raises:
            OSError, EOFError: it cannot be started, or has ended.
        """
        line = await asyncio.to_thread(self._start_process)
        await self._loop.create_unix_connection(lambda: self, sock=line)
        try:
            await asyncio.wait_for(self._ready, _START_SECONDS)
        except TimeoutError:
            self.kill()
            raise

    def _start_process(self) -> socket.socket:
        line, its_end = socket.socketpair()
        with its_end:
            try:
                self.process = subprocess.Popen(  # noqa: S603  # this Python, our own code
                    [sys.executable, "-P", "-c", _START, *sys.path, str(self.shared.descriptor or ""), self._limits],
                    stdin=its_end.fileno(),
                    stdout=its_end.fileno(),
                    env={name: value for name, value in os.environ.items() if name not in _SECRETS} | _ENVIRONMENT,
                    pass_fds=() if self.shared.descriptor is None else (self.shared.descriptor,),
                )
            except BaseException:
                line.close()
                raise
        return line

    def take(self, task: _Task) -> None:
        """Begin to decode an image."""
        assert self._transport is not None  # noqa: S101  # only used once it was started
        self.task = task
        encoded, length = encode_preprocessing(task.config), len(task.source)
        in_shared = self.shared.memory is not None and length <= SLOT
        if self.shared.memory is not None and in_shared:
            self.shared.memory[:length] = task.source
        self._transport.write(REQUEST.pack(len(encoded), length, in_shared) + encoded)
        if not in_shared:
            self._transport.write(task.source)
        self._watch(task.due)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no class of asyncio's

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._ready.done():
            if bytes(self._received) == READY:
                self._received.clear()
                self._ready.set_result(None)
            return
        try:
            found = self._answer()
        except EOFError:  # it no longer does what is written here
            self.kill()
            return
        if found is None:
            return
        task, self.task = self.task, None
        self._received.clear()
        self._on_free(self)
        if task is not None:
            task.on_done(*found)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._ready.done():
            self._ready.set_exception(EOFError())
        else:
            self._on_end(self)

    def _answer(self) -> tuple[Window | Exception, str] | None:
        """What the process says of the image; ``None`` if not all of it has come.

        Raises:
            EOFError: it makes no sense.
        """
        if len(self._received) < ANSWER.size:
            return None
        kind, length, printed = ANSWER.unpack_from(self._received)
        if self.task is None:
            raise EOFError
        shape = (self.task.config.crop_size, self.task.config.crop_size, 3)
        size = math.prod(shape)
        in_shared = kind == SHARED and length == 0 and self.shared.memory is not None and size <= SLOT
        is_text = kind in (REFUSED, FAILED) and length <= _MOST_TEXT
        if not (in_shared or is_text or (kind == PIXELS and length == size)):
            raise EOFError
        content = ANSWER.size + length
        if len(self._received) < content + printed:
            return None
        notes = self._received[content : content + printed].decode("utf-8", "backslashreplace").strip()
        if not is_text:
            # Bytes, for an array's copy lets another thread have the interpreter.
            if in_shared and self.shared.memory is not None:
                pixels = self.shared.memory[SLOT : SLOT + size]
            else:
                pixels = bytes(self._received[ANSWER.size : content])
            return np.frombuffer(pixels, np.uint8).reshape(shape), notes
        text = self._received[ANSWER.size : content].decode(errors="replace")
        if kind == FAILED:
            return RuntimeError(f"a decoding process failed: {text}"), notes
        return ImageError(describe(self.task.source), text), notes

    def _watch(self, due: float) -> None:
        """Have the image in hand looked at when it is due; a timer that ends earlier does, too, for it is set anew."""
        end = self._loop.time() + max(0.0, due - time.perf_counter())
        if self._timer is not None:
            if self._timer.when() <= end:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(end, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self.task is None:
            return
        if time.perf_counter() < self.task.due:
            self._watch(self.task.due)
        else:
            self.overdue = True
            self.kill()

    def kill(self) -> None:
        """May be called from any thread."""
        if self.process is not None:
            self.process.kill()

    def end(self) -> int:
        """See to it that the process has ended, and return how; called from another thread, as it may wait."""
        if self.process is None:
            return 0
        try:
            return self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def close(self) -> None:
        """Give up the line to the process."""
        if self._transport is not None:
            self._transport.abort()


class _SharedMemory:
    """What one process after the other shares with this one, where the system has such memory."""

    def __init__(self) -> None:
        self.descriptor = shared_memory()
        self.memory = mmap.mmap(self.descriptor, 2 * SLOT) if self.descriptor is not None else None

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)  # what is mapped goes with the last who holds it


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
        self._decoders = [self._new(_SharedMemory()) for _ in range(count)]
        self._idle: deque[_Decoder] = deque()
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
        task = _Task(source, config, on_done, start, due)
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

    def _new(self, shared: _SharedMemory) -> _Decoder:
        return _Decoder(shared, self._limits, self._free, self._ended)

    def _free(self, decoder: _Decoder) -> None:
        self._idle.append(decoder)
        self._on_free()

    def _ended(self, decoder: _Decoder) -> None:
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

    async def _give_up(self, decoder: _Decoder) -> None:
        """Tell those who have sent an image that there is none, and replace the process."""
        code = await asyncio.to_thread(decoder.end)
        task, decoder.task = decoder.task, None
        if task is not None:
            task.on_done(self._failure(decoder, task, code), "")
        await self._replace(decoder)

    def _failure(self, decoder: _Decoder, task: _Task, code: int) -> ImageError:
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

    async def _replace(self, old: _Decoder, task: _Task | None = None) -> None:
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

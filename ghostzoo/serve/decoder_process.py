"""One process that decodes, as the server sees it: it is given an image, tells what became of it, and may die at any
time."""

from __future__ import annotations

import asyncio
import json
import math
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from ..errors import ImageError
from ..images.options import ImageLimits, describe
from ..images.preprocessing import Preprocessing
from .decoder import ANSWER, FAILED, PIXELS, READY, REFUSED, REQUEST, SHARED, SLOT, encode_preprocessing, shared_memory
from .options import API_KEY_VARIABLE
from .queueing import Window

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

OnDone = Callable[[Window | Exception, str], object]
"""Is told what an image looks like or why it cannot be had, and what the decoder printed about it."""


@dataclass(slots=True)
class DecodeTask:
    """An image in hand."""

    source: bytes
    config: Preprocessing
    on_done: OnDone
    since: float
    """By ``time.perf_counter``."""
    due: float


class DecoderProcess(asyncio.Protocol):
    """One process, with one image in hand at most; used on the event loop, but for what says otherwise.

    Args:
        on_free: called when it can take an image, again.
        on_end: called once, when it has ended by itself, or is overdue.
    """

    def __init__(
        self,
        shared: SharedMemory,
        limits: ImageLimits,
        on_free: Callable[[DecoderProcess], object],
        on_end: Callable[[DecoderProcess], object],
    ) -> None:
        self.shared = shared
        self.task: DecodeTask | None = None
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

    def take(self, task: DecodeTask) -> None:
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


class SharedMemory:
    """What one process after the other shares with this one, where the system has such memory."""

    def __init__(self) -> None:
        self.descriptor = shared_memory()
        self.memory = mmap.mmap(self.descriptor, 2 * SLOT) if self.descriptor is not None else None

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)  # what is mapped goes with the last who holds it

"""One process that decodes, as the server sees it: it is given an image, tells what became of it, and may die at any
time, or do what it should not."""

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
"""Bytes of why an image cannot be read."""
_LEAST_SECONDS = 1.0
"""An image has at least these, whatever its request's deadline: to replace a process costs more than most images."""
_LAST_SECONDS = 0.05
"""When an image is due, its answer may be there already, and not yet be read."""

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
    """An image to decode."""

    source: bytes
    config: Preprocessing
    on_done: OnDone
    deadline: float
    """By ``time.perf_counter``."""


class DecoderProcess(asyncio.Protocol):
    """One process from its start to its end, with one image in hand at most; used on the event loop alone.

    Args:
        limits: what an image may cost.
        timeout: seconds that decoding one image may take.
        on_free: called when an image has been decoded, and the next may be taken.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, limits: ImageLimits, timeout: float, on_free: Callable[[], object]) -> None:
        self.task: DecodeTask | None = None
        self.used = False
        """Whether it was ever given an image."""
        self.overdue = False
        """Whether it was killed for its image took too long."""
        self.usable = False
        """Whether it has started, and is neither dead nor killed, as far as is known."""
        self._timeout = timeout
        self._on_free = on_free
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[bool] = self._loop.create_future()
        self._lost = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._since = self._due = 0.0
        self._descriptor = shared_memory()  # of its own: what it leaves running must not see its successor's images
        self._memory: mmap.mmap | None = None
        try:
            if self._descriptor is not None:
                self._memory = mmap.mmap(self._descriptor, 2 * SLOT)
            self._line, its_end = socket.socketpair()
            with its_end:
                try:
                    self.process = self._started(its_end, json.dumps(vars(limits)))
                except BaseException:
                    self._line.close()
                    raise
        except BaseException:
            self._free_memory()
            raise

    def _started(self, line: socket.socket, limits: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  # this Python, our own code
            [sys.executable, "-P", "-c", _START, *sys.path, str(self._descriptor or ""), limits],
            stdin=line.fileno(),
            stdout=line.fileno(),
            env={name: value for name, value in os.environ.items() if name not in _SECRETS} | _ENVIRONMENT,
            pass_fds=() if self._descriptor is None else (self._descriptor,),
        )

    async def wait_until_ready(self) -> None:
        """Return when it can take an image.

        Raises:
            OSError, EOFError: it has ended, or takes too long; what is left of it is to be ended by ``end``.
        """
        await self._loop.create_unix_connection(lambda: self, sock=self._line)
        try:
            is_ready = await asyncio.wait_for(asyncio.shield(self._ready), _START_SECONDS)
        except TimeoutError:
            raise TimeoutError(f"it was not ready within {_START_SECONDS:g} seconds") from None
        if not is_ready:
            raise EOFError("it has ended at once, or said what it should not")

    async def wait_for_the_end(self) -> None:
        """Return when it has ended by itself, or was killed."""
        await self._lost.wait()

    @property
    def takes_images(self) -> bool:
        """Whether it can be given an image: one that has just died may have said so already or not."""
        is_open = self._transport is not None and not self._transport.is_closing()
        return self.usable and is_open and self.process.poll() is None

    @property
    def seconds(self) -> float:
        """For which it has had its image in hand."""
        return time.perf_counter() - self._since

    def take(self, task: DecodeTask) -> None:
        """Begin to decode an image."""
        assert self._transport is not None  # noqa: S101  # it takes images
        self.task, self.used = task, True
        self._since = time.perf_counter()
        self._due = min(self._since + self._timeout, max(task.deadline, self._since + _LEAST_SECONDS))
        encoded, length = encode_preprocessing(task.config), len(task.source)
        memory = self._memory if length <= SLOT else None
        if memory is not None:
            memory[:length] = task.source
        self._transport.write(REQUEST.pack(len(encoded), length, memory is not None) + encoded)
        if memory is None:
            self._transport.write(task.source)
        self._watch()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no class of asyncio's

    def data_received(self, data: bytes) -> None:
        if self._ready.done() and not self.usable:
            return  # it was killed
        self._received += data
        try:
            found = self._answer() if self._read_greeting() else None
        except EOFError:  # it does not do what is written here
            self.kill()
            return
        if found is None:
            return
        task, self.task = self.task, None
        self._received.clear()
        try:
            self._on_free()
        finally:
            if task is not None:
                task.on_done(*found)

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if self._timer is not None:
            self._timer.cancel()
        if not self._ready.done():
            self._ready.set_result(False)
        self._lost.set()

    def _read_greeting(self) -> bool:
        """Whether it has said that it is ready, and something since; raises as ``_answer`` does."""
        if self._ready.done():
            return True
        if not READY.startswith(self._received):
            raise EOFError
        if self._received == READY:
            self._received.clear()
            self.usable = True
            self._ready.set_result(True)
        return False

    def _answer(self) -> tuple[Window | Exception, str] | None:
        """What the process says of the image; ``None`` if not all of it has come.

        Raises:
            EOFError: it makes no sense, or nobody has asked.
        """
        if self.task is None:
            raise EOFError
        if len(self._received) < ANSWER.size:
            return None
        kind, length, printed = ANSWER.unpack_from(self._received)
        shape = (self.task.config.crop_size, self.task.config.crop_size, 3)
        size = math.prod(shape)
        in_memory = kind == SHARED and length == 0 and size <= SLOT
        is_text = kind in (REFUSED, FAILED) and length <= _MOST_TEXT
        end = ANSWER.size + length
        if not (in_memory or is_text or (kind == PIXELS and length == size)) or len(self._received) > end + printed:
            raise EOFError
        if len(self._received) < end + printed:
            return None
        content, notes = bytes(self._received[ANSWER.size : end]), bytes(self._received[end:])
        outcome: Window | Exception
        if is_text:
            text = content.decode(errors="replace")
            failure = RuntimeError(f"a decoding process failed: {text}")
            outcome = failure if kind == FAILED else ImageError(describe(self.task.source), text)
        else:
            # Bytes, for an array's copy lets another thread have the interpreter.
            if in_memory:
                if self._memory is None:
                    raise EOFError
                content = self._memory[SLOT : SLOT + size]
            outcome = np.frombuffer(content, np.uint8).reshape(shape)
        return outcome, notes.decode("utf-8", "backslashreplace").strip()

    def _watch(self) -> None:
        """Look at the image in hand when it is due; a timer that ends earlier does, too, for it is set anew."""
        end = self._loop.time() + max(0.0, self._due - time.perf_counter())
        if self._timer is not None:
            if self._timer.when() <= end:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(end, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self.task is None:
            return
        if time.perf_counter() < self._due:
            self._watch()
        else:
            self._timer = self._loop.call_later(_LAST_SECONDS, self._on_last_time, self.task)

    def _on_last_time(self, task: DecodeTask) -> None:
        self._timer = None
        if self.task is task:
            self.overdue = True
            self.kill()
        elif self.task is not None:
            self._watch()

    def kill(self) -> None:
        """End it at once; nothing that it has said or will say counts any more."""
        self.usable = False
        self.process.kill()
        if self._transport is not None:
            self._transport.abort()

    async def end(self) -> int:
        """See to it that it has ended, free what it had, and return how it ended."""
        self.usable = False
        until = time.monotonic() + _END_SECONDS
        while self.process.poll() is None:
            if time.monotonic() >= until:
                self.process.kill()
            await asyncio.sleep(0.01)
        if self._transport is not None:
            self._transport.abort()
            await self._lost.wait()
        else:
            self._line.close()
        self._free_memory()
        return self.process.returncode

    def _free_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
        if self._descriptor is not None:
            os.close(self._descriptor)

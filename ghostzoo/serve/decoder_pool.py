"""Decoding in processes of its own: what hangs is killed, what crashes takes nothing along but the image in hand.

A thread that has an image to decode hands it to an idle process and waits, without holding the interpreter. One thread
more looks after the time: it kills the process of an image that takes too long, by which the wait for it ends.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..catalog import Preprocessing
from ..errors import EngineUnavailableError, ImageError
from ..images.preprocess import normalise
from ..images.reading import ImageLimits, describe
from .decoder import ANSWER, FAILED, PIXELS, READY, REFUSED, REQUEST, SHARED, SLOT, encode_preprocessing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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

_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "sys.path[:] = sys.argv[1:-2]; from ghostzoo.serve.decoder import main; main()"
)
"""Signals to the whole group are the server's to obey: it first finishes the images that it has accepted."""


class DecoderPool:
    """Processes that decode, one for each thread that may ask at the same time.

    Args:
        count: processes.
        limits: what an image may cost.
        timeout: seconds that decoding one image may take.
        on_end: is told why a process was replaced: ``"overdue"`` or ``"crashed"``.
    """

    def __init__(
        self, count: int, limits: ImageLimits, timeout: float, on_end: Callable[[str], object] = lambda _: None
    ) -> None:
        self._timeout = timeout
        self._on_end = on_end
        self._changed = threading.Condition()
        self._wake = math.inf
        """When the watching thread looks again."""
        self._closed = False
        self._decoders = [_Decoder(limits) for _ in range(count)]
        self._idle = deque(self._decoders)
        """The last is taken first: few are in use where there is little to do."""
        threading.Thread(target=self._watch, name="ghostzoo-decoders", daemon=True).start()

    @property
    def processes(self) -> list[int]:
        """Process ids."""
        return [decoder.process.pid for decoder in self._decoders if decoder.process is not None]

    def start(self) -> None:
        """Start all processes; they are ready a moment later."""
        for decoder in self._decoders:
            self._replace_early(decoder)

    def wait_until_ready(self) -> None:
        """Return when all processes have started.

        Raises:
            EngineUnavailableError: one could not be started.
        """
        for decoder in self._decoders:
            self._make_ready(decoder)

    def decode(self, source: bytes, config: Preprocessing, deadline: float = math.inf) -> NDArray[np.float32]:
        """Decode and preprocess an image, exactly as ``preprocess(read_image(source), config)`` does it.

        Args:
            source: the encoded image.
            config: the model's preprocessing.
            deadline: by ``time.perf_counter``; what is not done by then is given up.

        Returns:
            (3, crop_size, crop_size) float32.

        Raises:
            ImageError: it cannot be read, takes too long, or has crashed the process.
            EngineUnavailableError: no process could be started.
        """
        decoder = self._idle.pop()
        try:
            return normalise(self._ask(decoder, source, config, deadline), config)
        finally:
            self._idle.append(decoder)

    def kill(self) -> None:
        """End all processes at once; what waits for one gets an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            for decoder in self._decoders:
                decoder.kill()

    def close(self) -> None:
        """End all processes, and wait for their end; nothing may be in hand."""
        self.kill()
        for decoder in self._decoders:
            decoder.close()

    def _ask(self, decoder: _Decoder, source: bytes, config: Preprocessing, deadline: float) -> NDArray[np.uint8]:
        self._make_ready(decoder)
        start = time.perf_counter()
        self._begin(decoder, min(start + self._timeout, max(deadline, start + _LEAST_SECONDS)))
        answer: NDArray[np.uint8] | ImageError | None = None
        whole = False
        try:
            with suppress(OSError, EOFError):  # it is dead, or killed
                answer = decoder.ask(source, config)
            whole = True
        finally:
            overdue = self._end(decoder)
            if not whole:  # what may be left in its pipes is not for the next image
                decoder.kill()
                self._replace_early(decoder)
        if answer is None or overdue:
            reason = self._reason(decoder, time.perf_counter() - start, overdue)
            self._replace_early(decoder)
            if answer is None:
                fields = {"reason": reason, "bytes": len(source)}
                _logger.warning("A decoding process was ended and replaced.", extra={"fields": fields})
                self._on_end("overdue" if overdue else "crashed")
                raise ImageError(describe(source), reason)
        if isinstance(answer, ImageError):
            raise answer
        return answer

    def _reason(self, decoder: _Decoder, seconds: float, overdue: bool) -> str:
        """Why the process of an image is gone, for those who have sent it."""
        if overdue:
            return f"decoding it was stopped after {seconds:.1f} seconds; make it smaller, or save it as a plain JPEG"
        code = decoder.end()
        how = f"signal {-code}, {_signal_name(-code)}" if code < 0 else f"exit status {code}"
        return f"decoding it ended the decoder ({how}); it is damaged, save it again in another format"

    def _make_ready(self, decoder: _Decoder) -> None:
        if decoder.ready and decoder.alive:
            return
        try:
            if not decoder.alive:
                self._replace(decoder)
            self._begin(decoder, time.perf_counter() + _START_SECONDS)
            decoder.wait_until_ready()
        except (OSError, EOFError) as error:
            raise EngineUnavailableError(
                f"A process for decoding images could not be started ({error or 'it has ended'}); see what it wrote to "
                "stderr, or start the server with --no-decode-processes."
            ) from error
        finally:
            self._end(decoder)

    def _replace_early(self, decoder: _Decoder) -> None:
        with suppress(OSError):  # who needs it next tries again, and tells why not
            self._replace(decoder)

    def _replace(self, decoder: _Decoder) -> None:
        decoder.end()
        with self._changed:
            if not self._closed:
                decoder.start()

    def _begin(self, decoder: _Decoder, due: float) -> None:
        with self._changed:
            decoder.due, decoder.overdue = due, False
            if due < self._wake:
                self._changed.notify()

    def _end(self, decoder: _Decoder) -> bool:
        """Stop looking after the decoder, and return whether it was killed."""
        with self._changed:
            decoder.due = math.inf
            return decoder.overdue

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.perf_counter()
                for decoder in self._decoders:
                    if decoder.due <= now:
                        decoder.due, decoder.overdue = math.inf, True
                        decoder.kill()
                self._wake = min(decoder.due for decoder in self._decoders)
                self._changed.wait(None if self._wake == math.inf else self._wake - now)


class _Decoder:
    """One process at a time, and what it is doing; used by one thread at a time, but for ``kill``."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = json.dumps(vars(limits))
        self._memory = _shared_memory()
        self._shared = mmap.mmap(self._memory, 2 * SLOT) if self._memory is not None else None
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False
        self.due = math.inf
        """By ``time.perf_counter``."""
        self.overdue = False
        """Whether it was killed for that."""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        self.ready = False
        self.process = subprocess.Popen(  # noqa: S603  # this Python, our own code
            [sys.executable, "-P", "-c", _START, *sys.path, str(self._memory or ""), self._limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT},
            pass_fds=() if self._memory is None else (self._memory,),
        )

    def wait_until_ready(self) -> None:
        _, answers = self._streams
        if answers.read(len(READY)) != READY:
            raise EOFError
        self.ready = True

    def ask(self, source: bytes, config: Preprocessing) -> NDArray[np.uint8] | ImageError:
        """Have an image decoded; the pixels may lie in memory that the next image is written to.

        Raises:
            OSError, EOFError: the process has died, or answers what makes no sense.
            RuntimeError: it has failed by an error of ours.
        """
        requests, answers = self._streams
        encoded = encode_preprocessing(config)
        shared = self._shared if len(source) <= SLOT else None
        if shared is not None:
            shared[: len(source)] = source
        requests.write(REQUEST.pack(len(encoded), len(source), shared is not None) + encoded)
        if shared is None:
            requests.write(source)
        requests.flush()
        head = answers.read(ANSWER.size)
        if len(head) < ANSWER.size:
            raise EOFError
        kind, length = ANSWER.unpack(head)
        shape = (config.crop_size, config.crop_size, 3)
        if kind == SHARED and self._shared is not None and math.prod(shape) <= SLOT:
            return np.frombuffer(self._shared, np.uint8, math.prod(shape), SLOT).reshape(shape)
        if kind == PIXELS:
            window = np.empty(shape, np.uint8)
            if length != window.nbytes or answers.readinto(window.data.cast("B")) < length:
                raise EOFError
            return window
        if kind not in (REFUSED, FAILED) or length > _MOST_TEXT:
            raise EOFError
        text = answers.read(length).decode(errors="replace")
        if kind == FAILED:
            raise RuntimeError(f"a decoding process failed: {text}")
        return ImageError(describe(source), text)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def end(self) -> int:
        """See to it that the process has ended, and return how."""
        if self.process is None:
            return 0
        try:
            code = self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        for stream in self._streams:
            with suppress(OSError):  # what was not written cannot be any more
                stream.close()
        return code

    def close(self) -> None:
        self.end()
        if self._memory is not None:
            os.close(self._memory)  # what is mapped goes with the last who holds it

    @property
    def _streams(self) -> tuple[IO[bytes], Any]:
        """Where requests go to, where answers come from."""
        assert self.process is not None  # noqa: S101  # only used once it was started
        return cast(IO[bytes], self.process.stdin), self.process.stdout


def _shared_memory() -> int | None:
    """Return the descriptor of memory that no process can make smaller, which would crash the others; ``None`` where
    the system has none. It is no file: there need not be a writable folder, nor room in /dev/shm."""
    if fcntl is None or not hasattr(os, "memfd_create"):
        return None
    try:
        memory = os.memfd_create("ghostzoo-decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:  # as in sandboxes
        return None
    os.ftruncate(memory, 2 * SLOT)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return memory


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # such as one of the real-time signals
        return "unknown"

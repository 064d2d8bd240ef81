"""Decoding in processes of its own: what hangs is killed, what crashes takes nothing along but the image in hand.

A thread that has an image to decode hands it to an idle process and waits, without holding the interpreter, for as long
as the image may take.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineUnavailableError, ImageError
from ..images.options import ImageLimits, describe
from ..images.preprocessing import Preprocessing
from ..images.transform import normalise
from .decoder import ANSWER, FAILED, PIXELS, READY, REFUSED, REQUEST, SHARED, SLOT, encode_preprocessing, shared_memory
from .options import API_KEY_VARIABLE

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


class _Decoder:
    """One process at a time; used by one thread at a time, but for ``kill``. Times are by ``time.perf_counter``."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = json.dumps(vars(limits))
        self._memory = shared_memory()
        self._shared = mmap.mmap(self._memory, 2 * SLOT) if self._memory is not None else None
        self._line: socket.socket | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        self.ready = False
        self._line, its_end = socket.socketpair()
        with its_end:
            self.process = subprocess.Popen(  # noqa: S603  # this Python, our own code
                [sys.executable, "-P", "-c", _START, *sys.path, str(self._memory or ""), self._limits],
                stdin=its_end.fileno(),
                stdout=its_end.fileno(),
                env={name: value for name, value in os.environ.items() if name not in _SECRETS} | _ENVIRONMENT,
                pass_fds=() if self._memory is None else (self._memory,),
            )

    def wait_until_ready(self, due: float) -> None:
        if self._receive(len(READY), due) != READY:
            raise EOFError
        self.ready = True

    def ask(self, source: bytes, config: Preprocessing, due: float, note: Note) -> NDArray[np.uint8] | ImageError:
        """Have an image decoded; the pixels may lie in memory that the next image is written to.

        Raises:
            TimeoutError: it is not done when it is due.
            OSError, EOFError: the process has died, or answers what makes no sense.
            RuntimeError: it has failed by an error of ours.
        """
        encoded = encode_preprocessing(config)
        shared = self._shared if len(source) <= SLOT else None
        if shared is not None:
            shared[: len(source)] = source
        self._send(REQUEST.pack(len(encoded), len(source), shared is not None) + encoded, due)
        if shared is None:
            self._send(source, due)
        kind, length, printed = ANSWER.unpack(self._receive(ANSWER.size, due))
        shape = (config.crop_size, config.crop_size, 3)
        size = math.prod(shape)
        if kind == SHARED and self._shared is not None and size <= SLOT:
            answer = np.frombuffer(self._shared, np.uint8, size, SLOT)
        elif kind == PIXELS and length == size:
            answer = np.frombuffer(self._receive(size, due), np.uint8)
        elif kind in (REFUSED, FAILED) and length <= _MOST_TEXT:
            text = self._receive(length, due).decode(errors="replace")
        else:
            raise EOFError
        if printed:
            note(self._receive(printed, due).decode("utf-8", "backslashreplace").strip())
        if kind == FAILED:
            raise RuntimeError(f"a decoding process failed: {text}")
        return ImageError(describe(source), text) if kind == REFUSED else answer.reshape(shape)

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
        if self._line is not None:
            self._line.close()
        return code

    def close(self) -> None:
        self.end()
        if self._memory is not None:
            os.close(self._memory)  # what is mapped goes with the last who holds it

    def _send(self, data: bytes, due: float) -> None:
        self._line_until(due).sendall(data)

    def _receive(self, size: int, due: float) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            count = self._line_until(due).recv_into(rest)
            if not count:
                raise EOFError
            rest = rest[count:]
        return data

    def _line_until(self, due: float) -> socket.socket:
        assert self._line is not None  # noqa: S101  # only used once it was started
        self._line.settimeout(max(0.001, due - time.perf_counter()))
        return self._line


class DecoderPool:
    """Processes that decode, one for each thread that may ask at the same time.

    Args:
        count: processes.
        limits: what an image may cost.
        timeout: seconds that decoding one image may take.
        on_end: is told why a process was replaced: ``"overdue"`` or ``"crashed"``.
    """

    def __init__(self, count: int, limits: ImageLimits, timeout: float, on_end: Note = lambda _: None) -> None:
        self._timeout = timeout
        self._on_end = on_end
        self._starting = threading.Lock()
        self._closed = False
        self._decoders = [_Decoder(limits) for _ in range(count)]
        self._idle = deque(self._decoders)
        """The last is taken first: few are in use where there is little to do."""

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

    def decode(
        self, source: bytes, config: Preprocessing, deadline: float = math.inf, note: Note = lambda _: None
    ) -> NDArray[np.float32]:
        """Decode and preprocess an image, exactly as ``preprocess(read_image(source), config)`` does it.

        Args:
            source: the encoded image.
            config: the model's preprocessing.
            deadline: by ``time.perf_counter``; what is not done by then is given up.
            note: is told what the decoder printed about the image, if anything.

        Returns:
            (3, crop_size, crop_size) float32.

        Raises:
            ImageError: it cannot be read, takes too long, or has crashed the process.
            EngineUnavailableError: no process could be started.
        """
        decoder = self._idle.pop()
        try:
            return normalise(self._ask(decoder, source, config, deadline, note), config)
        finally:
            self._idle.append(decoder)

    def kill(self) -> None:
        """End all processes at once; what waits for one gets an error."""
        with self._starting:
            self._closed = True
            for decoder in self._decoders:
                decoder.kill()

    def close(self) -> None:
        """End all processes, and wait for their end; nothing may be in hand."""
        self.kill()
        for decoder in self._decoders:
            decoder.close()

    def _ask(
        self, decoder: _Decoder, source: bytes, config: Preprocessing, deadline: float, note: Note
    ) -> NDArray[np.uint8]:
        self._make_ready(decoder)
        start = time.perf_counter()
        due = min(start + self._timeout, max(deadline, start + _LEAST_SECONDS))
        try:
            answer = decoder.ask(source, config, due, note)
        except (OSError, EOFError) as error:
            raise self._give_up(decoder, source, time.perf_counter() - start, isinstance(error, TimeoutError)) from None
        except BaseException:  # what may be left of the answer is not for the next image
            decoder.kill()
            self._replace_early(decoder)
            raise
        if isinstance(answer, ImageError):
            raise answer
        return answer

    def _give_up(self, decoder: _Decoder, source: bytes, seconds: float, overdue: bool) -> ImageError:
        """Replace a process, and return why there is no image, for those who have sent it."""
        if overdue:
            decoder.kill()
            reason = f"decoding it was stopped after {seconds:.1f} seconds; make it smaller, or save it as a plain JPEG"
        code = decoder.end()
        self._replace_early(decoder)
        if self._closed:
            return ImageError(describe(source), "it was given up, for the server has ended")
        if not overdue:
            name = next((each.name for each in signal.Signals if each == -code), "unknown")
            how = f"signal {-code}, {name}" if code < 0 else f"exit status {code}"
            reason = f"decoding it ended the decoder ({how}); it is damaged, save it again in another format"
        fields = {"reason": reason, "bytes": len(source)}
        _logger.warning("A decoding process was ended and replaced.", extra={"fields": fields})
        self._on_end("overdue" if overdue else "crashed")
        return ImageError(describe(source), reason)

    def _make_ready(self, decoder: _Decoder) -> None:
        if decoder.ready and decoder.alive:
            return
        try:
            if not decoder.alive:
                self._replace(decoder)
            decoder.wait_until_ready(time.perf_counter() + _START_SECONDS)
        except (OSError, EOFError) as error:
            decoder.kill()
            raise EngineUnavailableError(
                f"A process for decoding images could not be started ({error or 'it has ended'}); see what it wrote to "
                "stderr, or start the server with --no-decode-processes."
            ) from error

    def _replace_early(self, decoder: _Decoder) -> None:
        with suppress(OSError):  # who needs it next tries again, and tells why not
            self._replace(decoder)

    def _replace(self, decoder: _Decoder) -> None:
        decoder.end()
        with self._starting:
            if self._closed:
                raise BrokenPipeError("the server is shutting down")
            decoder.start()

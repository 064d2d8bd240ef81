"""The server's end of a process that decodes: starting it, speaking with it, the memory that both see."""

from __future__ import annotations

import json
import math
import mmap
import os
import subprocess
import sys
from contextlib import suppress
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..images.decode import ImageLimits, describe
from ..images.preprocessing import Preprocessing
from .decoder import ANSWER, FAILED, PIXELS, READY, REFUSED, REQUEST, SHARED, SLOT, encode_preprocessing
from .options import API_KEY_VARIABLE

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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


class DecoderProcess:
    """One process at a time, and what it is doing; used by one thread at a time, but for ``kill``."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = json.dumps(vars(limits))
        self._memory = _shared_memory()
        self._shared = mmap.mmap(self._memory, 2 * SLOT) if self._memory is not None else None
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False
        self.complaint = ""
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
            env={name: value for name, value in os.environ.items() if name not in _SECRETS} | _ENVIRONMENT,
            pass_fds=() if self._memory is None else (self._memory,),
        )

    def wait_until_ready(self) -> None:
        _, answers = self._streams
        if answers.read(len(READY)) != READY:
            raise EOFError
        self.ready = True

    def ask(self, source: bytes, config: Preprocessing) -> NDArray[np.uint8] | ImageError:
        """Have an image decoded; the pixels may lie in memory that the next image is written to. What the decoder
        printed is then in ``complaint``.

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
        kind, length, printed = ANSWER.unpack(head)
        answer = self._read_answer(source, config, kind, length)
        self.complaint = answers.read(printed).decode("utf-8", "backslashreplace").strip()
        return answer

    def _read_answer(
        self, source: bytes, config: Preprocessing, kind: int, length: int
    ) -> NDArray[np.uint8] | ImageError:
        answers = self._streams[1]
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

"""Decoding in processes of its own: what hangs is killed, what crashes takes nothing along but the image in hand.

A thread that has an image to decode hands it to an idle process and waits, without holding the interpreter. One thread
more looks after the time: it kills the process of an image that takes too long, by which the wait for it ends.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineUnavailableError, ImageError
from ..images.decode import ImageLimits, describe
from ..images.preprocessing import Preprocessing
from ..images.transform import normalise
from .decoder_process import DecoderProcess

_logger = logging.getLogger(__name__)

_LEAST_SECONDS = 1.0
"""An image has at least these, whatever its request's deadline: to replace a process costs more than most images."""
_START_SECONDS = 60.0


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
        self._decoders = [DecoderProcess(limits) for _ in range(count)]
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

    def decode(
        self,
        source: bytes,
        config: Preprocessing,
        deadline: float = math.inf,
        note: Callable[[str], object] = lambda _: None,
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
            return normalise(self._ask(decoder, source, config, deadline), config)
        finally:
            if decoder.complaint:
                note(decoder.complaint)
                decoder.complaint = ""
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

    def _ask(self, decoder: DecoderProcess, source: bytes, config: Preprocessing, deadline: float) -> NDArray[np.uint8]:
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
            if answer is None and self._closed:
                raise ImageError(describe(source), "it was given up, for the server has ended")
            if answer is None:
                fields = {"reason": reason, "bytes": len(source)}
                _logger.warning("A decoding process was ended and replaced.", extra={"fields": fields})
                self._on_end("overdue" if overdue else "crashed")
                raise ImageError(describe(source), reason)
        if isinstance(answer, ImageError):
            raise answer
        return answer

    def _reason(self, decoder: DecoderProcess, seconds: float, overdue: bool) -> str:
        """Why the process of an image is gone, for those who have sent it."""
        if overdue:
            return f"decoding it was stopped after {seconds:.1f} seconds; make it smaller, or save it as a plain JPEG"
        code = decoder.end()
        how = f"signal {-code}, {_signal_name(-code)}" if code < 0 else f"exit status {code}"
        return f"decoding it ended the decoder ({how}); it is damaged, save it again in another format"

    def _make_ready(self, decoder: DecoderProcess) -> None:
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

    def _replace_early(self, decoder: DecoderProcess) -> None:
        with suppress(OSError):  # who needs it next tries again, and tells why not
            self._replace(decoder)

    def _replace(self, decoder: DecoderProcess) -> None:
        decoder.end()
        with self._changed:
            if self._closed:
                raise BrokenPipeError("the server is shutting down")
            decoder.start()

    def _begin(self, decoder: DecoderProcess, due: float) -> None:
        with self._changed:
            decoder.due, decoder.overdue = due, False
            if due < self._wake:
                self._changed.notify()

    def _end(self, decoder: DecoderProcess) -> bool:
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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # such as one of the real-time signals
        return "unknown"

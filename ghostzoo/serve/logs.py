"""What ``ghostzoo serve`` says on stderr: JSON Lines, or text for people, whoever says it; nobody waits for a line."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

_STDERR = 2

_MOST_BYTES = 2**20
"""Lines that may wait to be written, and as much again in the hands of the thread that writes them."""
_GATHER_SECONDS = 0.02
"""Lines of this time are written together: a wake-up of the thread for each would cost requests more than writing."""
_END_SECONDS = 1.0
"""At the end, the time for what is still to be written."""

_NATIVE_LINE_BYTES = 2000
_NATIVE_LINES_A_SECOND = 100
"""An image can make a decoder warn without end; a log that it fills helps nobody."""
_CHUNK_BYTES = 64 * 1024

_native = logging.getLogger("native")
_logger = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Any] = {
            "time": f"{_utc(int(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        content |= getattr(record, "fields", {})
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=True)


@lru_cache(1)
def _utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class TextFormatter(logging.Formatter):
    """For people at a terminal: a line for each request, and plain sentences."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        text = record.getMessage()
        if record.name == "ghostzoo.access":
            asked = f"{fields['method']} {fields['path']}" if "path" in fields else fields["route"]
            text = f"{asked}: {fields['status']}, {fields['ms']} ms"
        elif fields:
            text += " (" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + ")"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        # What clients send must not move a terminal's cursor.
        lines = (repr(line)[1:-1] if not line.isprintable() else line for line in text.splitlines())
        return time.strftime("%H:%M:%S ", time.localtime(record.created)) + "\n".join(lines)


class LineWriter:
    """Writes lines in a thread of its own; where nobody reads them, further ones are dropped and counted.

    The standard library's ``QueueListener`` would wait at the end for as long as nobody reads.

    Args:
        descriptor: file descriptor, which stays open.
        formatter: of the line that tells of dropped ones.
    """

    def __init__(self, descriptor: int, formatter: logging.Formatter) -> None:
        self.dropped = 0
        """Lines, since the start."""
        self._descriptor = descriptor
        self._formatter = formatter
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._size = 0
        self._some = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ghostzoo-log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Have ``line`` written soon. Never waits."""
        data = line.encode() + b"\n"
        with self._lock:
            if self._size + len(data) > _MOST_BYTES or self._closing.is_set():
                self.dropped += 1
                return
            self._lines.append(data)
            self._size += len(data)
        if not self._some.is_set():
            self._some.set()

    def drop(self, count: int) -> None:
        """Count lines that are not even to be put."""
        with self._lock:
            self.dropped += count

    def close(self, seconds: float) -> bool:
        """Write what waits, and return whether that was done within ``seconds``."""
        self._closing.set()
        self._some.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        told = 0
        closing = False
        while not closing:
            self._some.wait()
            closing = self._closing.wait(_GATHER_SECONDS)  # from here on no line is added
            with self._lock:
                self._some.clear()
                lines, self._lines, self._size = self._lines, [], 0
                dropped = self.dropped
            note = [self._note(dropped - told)] if dropped > told else []
            if self._write(b"".join(lines + note)):
                told = dropped
            else:
                self.drop(len(lines))

    def _note(self, count: int) -> bytes:
        message = "Lines of this log were dropped: they came faster than they are read."
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, message, (), None)
        record.fields = {"dropped": count}
        return self._formatter.format(record).encode() + b"\n"

    def _write(self, data: bytes) -> bool:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # whoever shares the terminal or pipe may have made it so
                if sys.platform == "win32":
                    return False
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll()
            except OSError:
                return False
        return True


class _LineHandler(logging.Handler):
    def __init__(self, lines: LineWriter, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put(self.format(record))
        except Exception:  # as all handlers of the standard library do
            self.handleError(record)


@contextmanager
def log_lines(*, text: bool = False) -> Iterator[LineWriter]:
    """Within it, whatever this process writes to stderr becomes a JSON object a line, or else ``text`` for people;
    afterwards stderr is as before.

    Python's loggers, warnings and threads, and C code that knows descriptor 2 only: libpng, OpenCV, gRPC, engines.
    What Python tells of a crash goes straight to the real stderr, for no thread is left that could put it into JSON.
    """
    original = _open_original()
    reading, writing = os.pipe()
    if hasattr(os, "set_blocking"):  # not on Windows with Python 3.11
        os.set_blocking(writing, False)  # C code that holds Python's lock must not wait for a thread that needs it
    os.dup2(writing, _STDERR)
    os.close(writing)
    formatter = TextFormatter() if text else JsonFormatter()
    lines = LineWriter(original, formatter)
    _set_up_loggers(lines, formatter)
    for_crashes = _open_for_crashes(original)
    faulthandler.enable(for_crashes)
    reader = threading.Thread(target=_read_native, args=(reading, lines), name="ghostzoo-stderr", daemon=True)
    reader.start()
    try:
        yield lines
    finally:
        faulthandler.disable()
        os.close(for_crashes)
        os.dup2(original, _STDERR)  # the pipe's only end to write to is closed by this
        reader.join(_END_SECONDS)
        if lines.close(_END_SECONDS):
            os.close(original)


def _open_original() -> int:
    try:
        os.fstat(_STDERR)
    except OSError:  # started without a stderr: its number must not become a socket's
        os.dup2(os.open(os.devnull, os.O_RDWR), _STDERR)
    return os.dup(_STDERR)


def _open_for_crashes(original: int) -> int:
    """Where the traceback of a crash goes; a crashed process must not live on because nobody reads its pipe."""
    if sys.platform == "linux" and stat.S_ISFIFO(os.fstat(original).st_mode):
        with suppress(OSError):  # opened anew, for the flag would hold for all that share the descriptor
            return os.open(f"/proc/self/fd/{original}", os.O_WRONLY | os.O_NONBLOCK)
    return os.dup(original)


def _set_up_loggers(lines: LineWriter, formatter: logging.Formatter) -> None:
    # What no line shows need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.getLogger().handlers = [_LineHandler(lines, formatter)]
    logging.getLogger("ghostzoo").setLevel(logging.INFO)
    logging.captureWarnings(True)
    threading.excepthook = _on_thread_error
    sys.unraisablehook = _on_unraisable


def _on_thread_error(arguments: threading.ExceptHookArgs) -> None:
    name = arguments.thread.name if arguments.thread is not None else "?"
    _logger.error("Thread %s failed.", name, exc_info=arguments.exc_value)


def _on_unraisable(arguments: sys.UnraisableHookArgs) -> None:
    _logger.error("%s: %r", arguments.err_msg or "Exception ignored in", arguments.object, exc_info=arguments.exc_value)


def _read_native(descriptor: int, lines: LineWriter) -> None:
    """Log what is written to the pipe, until its other end is closed; it is always emptied, whatever becomes of it."""
    rest = b""
    second, count = 0, 0
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > _NATIVE_LINE_BYTES:
            whole, rest = [*whole, rest], b""
        whole = [line for line in whole if line.strip()]
        now = int(time.monotonic())
        if now != second:
            second, count = now, 0
        taken = whole[: _NATIVE_LINES_A_SECOND - count]
        count += len(taken)
        lines.drop(len(whole) - len(taken))
        for line in taken:
            _log_native(line)
    if rest.strip():
        _log_native(rest)
    os.close(descriptor)


def _log_native(line: bytes) -> None:
    _native.warning("%s", line[:_NATIVE_LINE_BYTES].decode("utf-8", "backslashreplace").strip())

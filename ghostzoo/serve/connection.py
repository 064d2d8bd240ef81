"""One HTTP connection: uvicorn's, with a limit on what comes before the body and on how long that takes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .access import REQUEST_ID

HEADER_SECONDS = 15.0
"""Time for the request line and headers together, so that idle half-requests do not pile up."""


_DISCARD_SECONDS = 1.0
"""For which what a refused client still sends is read and thrown away, so that it hears why before the end."""

_AT_ONCE = 64 * 1024
"""Bytes that are held back for one turn of the event loop at most."""

WRITE_SECONDS = 20.0
_LEAST_TAKEN = 16 * 1024
"""Bytes that a client has to take in within the time for writing, if there are so many."""
_STOPPING_SECONDS = 5.0
"""The time for writing once the server stops."""

_UNSENT = 128 * 1024
"""Bytes that the system takes beyond what is on its way. It would otherwise take megabytes at a time, for slow clients
too, and it could not be seen whether they read."""

_BEGINNING = b"HTTP/1.1 "
"""Of all answers."""
_LOOK_SECONDS = 0.25


class OneWrite:
    """A transport that sends at once what is written in one turn of the event loop, and waits for no client forever.

    uvicorn writes the head and the body of an answer one after the other, each with a system call and a packet of its
    own, which are a tenth of what a small request takes.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, write_timeout: float) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0
        self._ended = False
        self._begun = 0
        self._written = 0
        self._taken = 0
        """Of what was written, at ``_since``."""
        self._since = 0.0
        """When nothing was waiting, or at the last look."""
        self._write_timeout = write_timeout
        self._look: asyncio.TimerHandle | None = None
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # not on Windows
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)

    def write(self, data: bytes) -> None:
        if self._ended:
            return
        if self._begun:
            data, self._begun = data[self._begun :], 0
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > _AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def end(self) -> None:
        """Tell the other side that nothing more comes, and go on reading; what is written from now on is dropped."""
        self._flush()
        self._ended = True
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def begin(self) -> None:
        """Send what the next answer begins with. A client that has closed its socket, and not its sending side alone,
        takes no more data: only by its refusal can one be told from the other, see ``is_refused``."""
        if not self.is_closing():
            self._flush()
            self._begun = len(_BEGINNING)
            self._transport.write(_BEGINNING)
            self._written += self._begun

    def is_refused(self) -> bool:
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    @property
    def _socket(self) -> socket.socket:
        connection: socket.socket = self._transport.get_extra_info("socket")
        return connection

    def hurry(self, write_timeout: float) -> None:
        """Shorten the time in which a client has to take in something, from now on."""
        self._write_timeout = min(write_timeout, self._write_timeout)
        if self._look is not None:
            self.release()
            self._note(self._transport.get_write_buffer_size())
            self._look_later()

    def is_closing(self) -> bool:
        return self._ended or self._transport.is_closing()

    def abort(self) -> None:
        self._transport.abort()

    def release(self) -> None:
        """Look at the connection no more."""
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _flush(self) -> None:
        if self._parts:
            if not self._transport.get_write_buffer_size():
                self._note(0)
            self._transport.write(b"".join(self._parts))
            self._parts.clear()
            self._written += self._size
            self._size = 0
            if self._look is None and self._transport.get_write_buffer_size():
                self._look_later()

    def _note(self, waiting: int) -> None:
        self._taken = self._written - waiting
        self._since = self._loop.time()

    def _look_later(self) -> None:
        self._look = self._loop.call_at(self._since + self._write_timeout, self._check)

    def _check(self) -> None:
        self._look = None
        waiting = self._transport.get_write_buffer_size()
        if not waiting:
            return
        if self._loop.time() >= self._since + self._write_timeout:
            if self._written - waiting - self._taken < _LEAST_TAKEN:
                self._transport.abort()
                return
            self._note(waiting)
        self._look_later()


def limited_protocol(
    max_header_bytes: int, on_refusal: Callable[[int], str], write_timeout: float = WRITE_SECONDS
) -> type[HttpToolsProtocol]:
    """Return a protocol for uvicorn that answers 431 to larger headers and 408 to slow ones.

    Args:
        max_header_bytes: the limit.
        on_refusal: is told the status of each such answer, and returns the id that the answer bears.
        write_timeout: seconds after which a connection is dropped whose client takes in next to nothing.
    """

    class LimitedProtocol(HttpToolsProtocol):
        _header_bytes = 0
        """Of the request that is being received; minus one while its body is."""
        _told_bytes = 0
        """What the parser has told of it."""
        _trailing_bytes = 0
        """What came since the last of its body."""
        _refused = False
        _is_last = False
        """Whether the client has said that it sends no more requests."""
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._out = OneWrite(transport, self.loop, write_timeout)
            self.transport = self._out  # type: ignore[assignment]
            self._start_timer(self._too_slow)

        def eof_received(self) -> bool:  # type: ignore[override]
            """The client sends no more; if it has sent a whole request, it may still want the answer."""
            whole = self._header_bytes == 0 and not self._refused
            if not whole or self.cycle is None or self.cycle.response_complete:
                return False
            self._is_last = True
            if not self.cycle.response_started and not self.pipeline:
                self._out.begin()
                self._start_timer(self._look_for_client, _LOOK_SECONDS)
            return True

        def _look_for_client(self) -> None:
            self._stop_timer()
            if self._out.is_refused():
                self._out.abort()
            elif not self.cycle.response_started:
                self._start_timer(self._look_for_client, _LOOK_SECONDS)

        def shutdown(self) -> None:
            super().shutdown()
            self._out.hurry(_STOPPING_SECONDS)

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            begins = self._header_bytes == 0
            if self._header_bytes >= 0:
                self._header_bytes += len(data)
            else:
                self._trailing_bytes += len(data)
            super().data_received(data)
            if self._refused:
                return
            if begins and self._header_bytes > 0 and not self.transport.is_closing():
                self._start_timer(self._too_slow)
            # What the parser has not told of yet may be one endless header.
            unparsed = max(self._header_bytes, self._trailing_bytes)
            if unparsed > max_header_bytes and not self.transport.is_closing():
                self._refuse(431, f"The headers are larger than {max_header_bytes} bytes; send less.")

        def on_message_begin(self) -> None:
            self._told_bytes = 0
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._tell(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._tell(len(name) + len(value) + 4)
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._header_bytes = -1
            self._stop_timer()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._trailing_bytes = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._header_bytes = self._trailing_bytes = 0
            super().on_message_complete()
            if self._is_answered:
                self._start_timer(self._close)  # uvicorn's own timer has ended with the rest of the body

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._header_bytes < 0 and self._is_answered:
                self._start_timer(self._close)  # what is left of the body of an answered request
            elif self._is_last and self._is_answered:
                self._close()

        @property
        def _is_answered(self) -> bool:
            return self.cycle is not None and self.cycle.response_complete

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._out.release()
            super().connection_lost(exc)

        def _tell(self, size: int) -> None:
            self._told_bytes += size
            if self._told_bytes > max_header_bytes:
                raise ValueError("headers too large")

        def _start_timer(self, at_end: Callable[[], None], seconds: float = HEADER_SECONDS) -> None:
            self._stop_timer()
            self._timer = self.loop.call_later(seconds, at_end)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _close(self) -> None:
            self._stop_timer()
            self.transport.close()

        def _too_slow(self) -> None:
            if not self.transport.is_closing():
                self._refuse(408, "The headers did not arrive in time; send them faster.")

        def send_400_response(self, msg: str) -> None:
            if self._told_bytes > max_header_bytes:
                self._refuse(431, f"The headers are larger than {max_header_bytes} bytes; send less.")
            else:
                self._refuse(400, "This is no valid HTTP request.")

        def _refuse(self, status: int, message: str) -> None:
            if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
                self._close()  # an answer is on its way, and a second one would be taken for its end
                return
            self._refused = True
            body = json.dumps({"error": message})
            phrases: dict[int, str] = {
                400: "Bad Request",
                408: "Request Timeout",
                431: "Request Header Fields Too Large",
            }
            self.transport.write(
                f"HTTP/1.1 {status} {phrases[status]}\r\ncontent-type: application/json\r\n"
                f"{REQUEST_ID}: {on_refusal(status)}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
            )
            self._out.end()
            self._start_timer(self._close, _DISCARD_SECONDS)

    return LimitedProtocol

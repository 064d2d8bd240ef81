"""One HTTP connection: uvicorn's, with a limit on what comes before the body and on how long that takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .access import REQUEST_ID
from .transport import WRITE_SECONDS, OneWrite

HEADER_SECONDS = 15.0
"""Time for the request line and headers together, so that idle half-requests do not pile up."""
_DISCARD_SECONDS = 1.0
"""For which what a refused client still sends is read and thrown away, so that it hears why before the end."""
_STOPPING_SECONDS = 5.0
"""The time in which a client has to take in something, once the server stops."""
_LOOK_SECONDS = 0.05
"""How often it is looked whether a client that sends no more is there still."""


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

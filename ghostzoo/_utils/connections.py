"""Connections of downloads: another thread can end them, and what comes before a body is bounded.

Servers of people who are not trusted may send headers for ever, or one line that does not end.
"""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Callable
from typing import Any

from requests.adapters import HTTPAdapter

MAX_HEAD = 64 * 1024
"""Bytes of status line and headers together, and of any line around the parts of a body. ``http.client`` reads a
hundred headers of as much each, which take 36 MB, and ``urllib3`` a line of any length."""

OnSocket = Callable[[socket.socket], object]
"""Called with each socket as soon as it is connected."""


class BoundedAdapter(HTTPAdapter):
    """For ``requests``: bounds all lines, and tells of each socket, so that another thread can shut it down.

    Nothing else ends a server that sends a byte of its headers now and then: for each a read timeout begins anew.
    """

    def __init__(self, on_socket: OnSocket = lambda _: None) -> None:
        super().__init__()
        self._on_socket = on_socket

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*arguments, **options)
        on_socket, plain = self._on_socket, type(pool).ConnectionCls

        class Connection(plain):  # type: ignore[misc, valid-type]
            response_class = _Response

            def connect(self) -> None:
                super().connect()
                on_socket(self.sock)

        pool.ConnectionCls = Connection
        return pool


class _Response(http.client.HTTPResponse):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lines = _Lines(self.fp.detach())
        self.fp = self._lines

    def begin(self) -> None:
        self._lines.left = MAX_HEAD
        super().begin()
        self._lines.left = None


class _Lines(io.BufferedReader):
    left: int | None = None
    """Bytes that all lines together may still have; ``None`` where each line is bounded for itself."""

    def readline(self, size: int | None = -1) -> bytes:
        most = MAX_HEAD if self.left is None else self.left
        line = super().readline(most + 1 if size is None or size < 0 else min(size, most + 1))
        if len(line) > most:
            raise http.client.HTTPException(f"its headers have more than {MAX_HEAD} bytes")
        if self.left is not None:
            self.left -= len(line)
        return line

"""What a connection sends through: in few packets, and to no client that takes nothing in."""

from __future__ import annotations

import asyncio
import socket

_AT_ONCE = 64 * 1024
"""Bytes that are held back for one turn of the event loop at most."""

WRITE_SECONDS = 20.0
_LEAST_TAKEN = 16 * 1024
"""Bytes that a client has to take in within the time for writing, if there are so many."""

_UNSENT = 128 * 1024
"""Bytes that the system takes beyond what is on its way. It would otherwise take megabytes at a time, for slow clients
too, and it could not be seen whether they read."""

_BEGINNING = b"HTTP/1.1 "
"""Of all answers."""


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

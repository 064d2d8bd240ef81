"""What is between an application and Hypercorn: bodies that nobody has read, and the ways of HTTP/2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = 5.0
"""For which the body of an answered request is read on and thrown away, so that a client that sends all of it before it
listens hears why it was refused."""


class LingeringMiddleware:
    """Ends each request so that its connection can end.

    Args:
        write_timeout: seconds in which a client over HTTP/2 has to take in a part of an answer; over HTTP/1.1 the
            system drops those that do not.
    """

    def __init__(self, app: ASGIApp, write_timeout: float) -> None:
        self._app = app
        self._write_timeout = write_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(reversed(scope["headers"]))  # the first of each name
        is_unread = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        send_in_time = self._in_time(send) if scope["http_version"] == "2" else send

        async def receive_and_note() -> Message:
            nonlocal is_unread
            message = await receive()
            is_unread = is_unread and bool(message.get("more_body"))
            return message

        async def send_and_linger(message: Message) -> None:
            if is_unread and message["type"] == "http.response.body" and not message.get("more_body"):
                await send_in_time({**message, "more_body": True})
                async with _discarding(receive) as rest:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(rest.wait(), _SECONDS)
                    await send_in_time({"type": "http.response.body"})
            else:
                await send_in_time(message)

        with suppress(ClientDisconnect):
            await self._app(scope, receive_and_note, send_and_linger)

    def _in_time(self, send: Send) -> Send:
        async def send_in_time(message: Message) -> None:
            if message["type"] == "http.response.start":  # HTTP/2 has no such header
                message["headers"] = [each for each in message["headers"] if each[0] != b"connection"]
            try:
                async with asyncio.timeout(self._write_timeout):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        return send_in_time


@asynccontextmanager
async def _discarding(receive: Receive) -> AsyncIterator[asyncio.Event]:
    """Throw away what comes within the block; the event is set when all of the body has come. Hypercorn ends a request
    only when all that it has of it was taken."""
    ended = asyncio.Event()

    async def discard() -> None:
        is_connected = True
        while is_connected:
            message = await receive()
            is_connected = message["type"] != "http.disconnect"
            if not message.get("more_body"):
                ended.set()

    task = asyncio.create_task(discard())
    try:
        yield ended
    finally:
        task.cancel()

"""How long a connection may stay open after an answer that did not wait for the body."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from ghostzoo.serve import connection
from ghostzoo.serve.connection import limited_protocol


async def answer_at_once(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("rest", [b"d", b"defghij"], ids=["the body does not end", "nothing follows"])
def test_what_is_left_of_a_body_keeps_no_connection_open(monkeypatch: pytest.MonkeyPatch, rest: bytes) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.2)

    async def run() -> None:
        protocol = limited_protocol(4096, lambda status: "id")
        config = uvicorn.Config(answer_at_once, http=protocol, lifespan="off", timeout_keep_alive=60, log_config=None)
        server = uvicorn.Server(config)
        config.load()
        listener = await asyncio.get_running_loop().create_server(
            lambda: protocol(config=config, server_state=server.server_state, app_state={}), "127.0.0.1", 0
        )
        async with listener:
            reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
            writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404")
            writer.write(rest)
            async with asyncio.timeout(20):
                assert await reader.read() == b""
            writer.close()

    asyncio.run(run())

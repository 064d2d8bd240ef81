"""Answers that are sent as fast as the client takes them in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PART = 64 * 1024
"""Bytes that are given to the connection at once."""


class PacedResponse(Response):
    """An answer that is whole in memory and counts against the server's budget until all of it is sent.

    Given to the connection at once, it would be copied, and wait there for as long as the client likes.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= PART:
            await super().__call__(scope, receive, send)
            return
        with scope["app"].state.service.memory.counted(len(self.body)):
            await send_parts(self, self.body, send)


async def send_parts(response: Response, content: bytes | memoryview, send: Send) -> None:
    """Send ``response`` with ``content`` as its body, waiting after each part until the connection takes more."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    view = memoryview(content)
    for start in range(0, len(view), PART):
        end = start + PART
        await send({"type": "http.response.body", "body": bytes(view[start:end]), "more_body": end < len(view)})


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return json_text_response(json_text(content), status, headers)


def json_text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def json_text_response(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return PacedResponse(text, status, headers, "application/json")

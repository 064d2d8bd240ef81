"""Answers: JSON, errors, and what is too large to be given to the connection at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from ..errors import GhostZooError
from .request_errors import RequestError, as_request_error

_PART = 64 * 1024
"""Bytes that are given to the connection at once."""
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_BODY_UNREAD = (408, 413, 503)
"""After these answers some of the body may still be on its way."""


class ApiRoute(APIRoute):
    """A route whose failures are answered in the one form that they have.

    An endpoint that takes the request itself, and nothing else, and makes the response is called as it is: what FastAPI
    does for others at each request would take longer than the endpoint.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if get_type_hints(self.endpoint) == {"request": Request, "return": Response}:
            handle = self.endpoint

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except (RequestError, GhostZooError) as error:
                return failure_response(error)  # by now, or the error would hold the request's body until it is sent

        return answer


class PacedResponse(Response):
    """An answer that is whole in memory and counts against the server's budget until all of it is sent.

    Given to the connection at once, it would be copied, and wait there for as long as the client likes; each part waits
    until the connection takes it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= _PART:
            await super().__call__(scope, receive, send)
            return
        with scope["app"].state.service.memory.counted(len(self.body)):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            view = memoryview(self.body)
            for start in range(0, len(view), _PART):
                part = bytes(view[start : start + _PART])
                await send({"type": "http.response.body", "body": part, "more_body": start + _PART < len(view)})


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return json_text_response(json_text(content), status, headers)


def json_text(content: Any) -> str:
    return _encode(content)


def json_text_response(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return PacedResponse(text, status, headers, "application/json")


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the form that all of this server's REST answers have."""
    return json_response({"error": message}, status, headers)


def failure_response(
    error: Exception, content: Callable[[int, str], dict[str, Any]] = lambda _, text: {"error": text}
) -> Response:
    """Answer a failure; ``content`` makes the JSON of status and message."""
    known = as_request_error(error)
    headers = {} if known.retry_after is None else {"retry-after": str(known.retry_after)}
    if known.status in _BODY_UNREAD:
        headers["connection"] = "close"
    return json_response(content(known.status, str(known)), known.status, headers)

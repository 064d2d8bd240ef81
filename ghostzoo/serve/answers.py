"""Answers: JSON, errors, and what is too large to be given to the connection at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from ..bundle.folder import Bundle
from ..errors import GhostZooError
from .memory import Memory
from .request_errors import RequestError, as_request_error

_PART = 64 * 1024
"""Bytes that are given to the connection at once."""
_BODY_UNREAD = (408, 413, 503)
"""After these answers some of the body may still be on its way."""


class ApiRoute(APIRoute):
    """A route whose failures are answered in the one form that they have."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except (RequestError, GhostZooError) as error:
                return failure_response(error)  # by now, or the error would hold the request's body until it is sent

        return answer


class PacedResponse(Response):
    """An answer that is whole in memory and counts against the server's budget until all of it is sent.

    Given to the connection at once, it would be copied, and wait there for as long as the client likes.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= _PART:
            await super().__call__(scope, receive, send)
            return
        with scope["app"].state.service.memory.counted(len(self.body)):
            await _send_parts(self, self.body, send)


async def _send_parts(response: Response, content: bytes | memoryview, send: Send) -> None:
    """Send ``response`` with ``content`` as its body, waiting after each part until the connection takes more."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    view = memoryview(content)
    for start in range(0, len(view), _PART):
        end = start + _PART
        await send({"type": "http.response.body", "body": bytes(view[start:end]), "more_body": end < len(view)})


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return json_text_response(json_text(content), status, headers)


def json_text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


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


@dataclass
class _Shared:
    content: bytes
    held: ExitStack
    users: int = 0


class SharedFiles:
    """The files of models that are being sent: each is in memory once, however many take it, and however slowly.

    Used on the event loop alone.

    Args:
        memory: what they count against.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._shared: dict[str, _Shared] = {}
        self._reading = asyncio.Lock()

    async def respond(self, bundle: Bundle, path: str, headers: Mapping[str, str], media_type: str) -> Response:
        """Return an answer with the verified content of the file ``path`` of the manifest; it has to be sent.

        Raises:
            BundleError: the file is not as the manifest says.
            RequestError: the server's budget is used up.
        """
        record = bundle.manifest.files[path]
        async with self._reading:
            shared = self._shared.get(record.sha256)
            if shared is None:
                with ExitStack() as stack:
                    stack.enter_context(self._memory.held(record.size))
                    content = await asyncio.to_thread(bundle.read, path)
                    shared = self._shared[record.sha256] = _Shared(content, stack.pop_all())
            shared.users += 1
        return _FileResponse(self, record.sha256, shared, headers, media_type)

    def give_back(self, sha256: str, shared: _Shared) -> None:
        shared.users -= 1
        if not shared.users:
            del self._shared[sha256]
            shared.held.close()


class _FileResponse(Response):
    def __init__(
        self, files: SharedFiles, sha256: str, shared: _Shared, headers: Mapping[str, str], media_type: str
    ) -> None:
        super().__init__(headers={**headers, "content-length": str(len(shared.content))}, media_type=media_type)
        self._files, self._sha256, self._shared = files, sha256, shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _send_parts(self, self._shared.content, send)
        finally:
            self._files.give_back(self._sha256, self._shared)

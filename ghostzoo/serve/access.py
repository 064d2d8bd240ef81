"""Around every HTTP request: an id, a deadline, the API key, a line in the log, the metrics."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import documentation
from .failures import CLIENT_GONE, as_request_error
from .service import Exchange, Service

_logger = logging.getLogger(__name__)
access_logger = logging.getLogger("ghostzoo.access")

_FOREIGN = "A page of another site may not send this; start the server with --cors-origin for that site to allow it."
_READING = ("GET", "HEAD", "OPTIONS")
_NO_KEY = "This server wants its API key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)

_PROBES = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""What needs no key, besides the documentation: these hold nothing of the models. Nor does OPTIONS need one, by which
browsers ask whether they may send one."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        content |= getattr(record, "fields", {})
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=True)


def log_access(service: Service, protocol: str, route: str, status: str, exchange: Exchange, **fields: object) -> None:
    """Write the line of one answered request, and count it."""
    seconds = time.perf_counter() - exchange.started
    service.metrics.on_answer(protocol, route, status, seconds)
    access_logger.info(
        "request",
        extra={
            "fields": {
                "protocol": protocol,
                "request_id": exchange.request_id,
                "route": route,
                "status": status,
                "ms": round(1000 * seconds, 3),
                **fields,
            }
        },
    )


def log_refusal(service: Service, status: int) -> str:
    """Log and count a request that was refused before it was whole, and return its id."""
    exchange = Exchange(request_id(None), time.perf_counter(), 0.0)
    service.metrics.on_request("http")
    log_access(service, "http", "other", str(status), exchange)
    return exchange.request_id


def request_id(given: str | None) -> str:
    """Return the id that a client gave, if it is a plain one, or a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def key_matches(expected: str, authorization: str | None, api_key: str | None) -> bool:
    """Whether ``Authorization: Bearer KEY`` or ``X-API-Key: KEY`` shows the key, in time that tells nothing of it."""
    scheme, _, token = (authorization or "").partition(" ")
    shown = token.strip() if scheme.lower() == "bearer" else (api_key or "")
    return hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), expected.encode())


class AccessMiddleware:
    """See the module.

    Args:
        open_paths: paths that need no key.
    """

    def __init__(self, app: ASGIApp, service: Service, open_paths: frozenset[str]) -> None:
        self._app = app
        self._service = service
        self._open_paths = _PROBES | open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        deadline = asyncio.get_running_loop().time() + self._service.options.deadline
        client = (scope.get("client") or [None])[0]
        exchange = Exchange(request_id(headers.get(REQUEST_ID)), time.perf_counter(), deadline, receive, client)
        scope.setdefault("state", {})["exchange"] = exchange
        status = CLIENT_GONE

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", [])
                message["headers"] = [*message["headers"], *self._headers(exchange)]
            await send(message)

        self._service.metrics.on_request("http")
        try:
            if self._is_foreign(scope, headers):
                await send_error(send_and_note, 403, _FOREIGN)
            elif not self._allowed(scope, headers):
                await send_error(send_and_note, 401, _NO_KEY, (b"www-authenticate", b"Bearer"))
            else:
                await self._app(scope, receive, send_and_note)
        except Exception as error:
            _logger.error("A request failed.", exc_info=error, extra={"fields": {"request_id": exchange.request_id}})
            if status != CLIENT_GONE:
                raise
            await send_error(send_and_note, 500, str(as_request_error(error)))
        finally:
            log_access(
                self._service,
                "http",
                _route(scope),
                str(status),
                exchange,
                method=scope["method"],
                path=scope["path"][:500],
                client=client,
            )

    def _headers(self, exchange: Exchange) -> Iterable[tuple[bytes, bytes]]:
        yield REQUEST_ID.encode(), exchange.request_id.encode()
        yield b"x-content-type-options", b"nosniff"
        if self._service.stopping.is_set():
            yield b"connection", b"close"

    def _is_foreign(self, scope: Scope, headers: Headers) -> bool:
        """Whether a page of another site sends something to be done: browsers ask for leave before they show such a
        page the answer, but not always before they send."""
        origin, known = headers.get("origin"), self._service.options.cors_origins
        if origin is None or scope["method"] in _READING or origin in known or "*" in known:
            return False
        host = headers.get("host")
        return origin not in (f"http://{host}", f"https://{host}")

    def _allowed(self, scope: Scope, headers: Headers) -> bool:
        key, path = self._service.options.api_key, scope["path"]
        if key is None or path in self._open_paths or documentation.is_part(path) or scope["method"] == "OPTIONS":
            return True
        return key_matches(key, headers.get("authorization"), headers.get("x-api-key"))


async def send_error(send: Send, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
    """Answer a request whose body may not have been read."""
    body = json.dumps({"error": message}).encode()
    length = (b"content-length", str(len(body)).encode())
    head = [(b"content-type", b"application/json"), length, (b"connection", b"close"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def _route(scope: Scope) -> str:
    """The route's pattern: a label for metrics must not be of the client's choosing."""
    route = scope.get("route")
    return getattr(route, "path", None) or "other"

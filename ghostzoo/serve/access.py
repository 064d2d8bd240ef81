"""Around every HTTP request: an id, a deadline, who may ask, a line in the log, the metrics."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .documentation import PATHS
from .hosts import is_known, known_names
from .request_errors import CLIENT_GONE, as_request_error
from .service import RequestInfo, Service

_logger = logging.getLogger(__name__)
access_logger = logging.getLogger("ghostzoo.access")

_FOREIGN = "A page of another site may not send this; start the server with --cors-origin for that site to allow it."
_ONE_HOST = "A request must have one Host header; send the name or address of this server in it."
_UNKNOWN_HOST = (
    "This server does not answer to the name {!r}; start it with --allowed-host and that name, or use its address."
)
_READING = ("GET", "HEAD", "OPTIONS")
_NO_KEY = "This server wants its API key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)

_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}) | PATHS
"""What may be read without the key: these hold nothing of the models."""


def log_access(
    service: Service, protocol: str, route: str, status: str, request_info: RequestInfo, **fields: object
) -> None:
    """Write the line of one answered request, and count it."""
    seconds = time.perf_counter() - request_info.started
    service.metrics.on_answer(protocol, route, status, seconds)
    access_logger.info(
        "request",
        extra={
            "fields": {
                "protocol": protocol,
                "request_id": request_info.request_id,
                "route": route,
                "status": status,
                "ms": round(1000 * seconds, 3),
                **fields,
            }
        },
    )


def log_refusal(service: Service, status: int) -> str:
    """Log and count a request that was refused before it was whole, and return its id."""
    request_info = RequestInfo(request_id(None), time.perf_counter(), 0.0)
    service.metrics.on_request("http")
    log_access(service, "http", "other", str(status), request_info)
    return request_info.request_id


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
        open_paths: further paths that may be read without the key.
    """

    def __init__(self, app: ASGIApp, service: Service, open_paths: frozenset[str]) -> None:
        self._app = app
        self._service = service
        self._open_paths = _OPEN_PATHS | open_paths
        self._names = known_names(service.options.host, service.options.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        deadline = asyncio.get_running_loop().time() + self._service.options.deadline
        client = (scope.get("client") or [None])[0]
        request_info = RequestInfo(request_id(headers.get(REQUEST_ID)), time.perf_counter(), deadline, receive, client)
        scope.setdefault("state", {})["request_info"] = request_info
        status = CLIENT_GONE

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", [])
                message["headers"] = [*message["headers"], *self._headers(request_info)]
            await send(message)

        self._service.metrics.on_request("http")
        try:
            if (refusal := self._refuse_host(scope, headers)) is not None:
                await send_error(send_and_note, *refusal)
            elif self._is_foreign(scope, headers):
                await send_error(send_and_note, 403, _FOREIGN)
            elif not self._allowed(scope, headers):
                await send_error(send_and_note, 401, _NO_KEY, (b"www-authenticate", b"Bearer"))
            else:
                await self._app(scope, receive, send_and_note)
        except Exception as error:
            _logger.error(
                "A request failed.", exc_info=error, extra={"fields": {"request_id": request_info.request_id}}
            )
            if status != CLIENT_GONE:
                raise
            await send_error(send_and_note, 500, str(as_request_error(error)))
        finally:
            log_access(
                self._service,
                "http",
                _route(scope),
                str(status),
                request_info,
                method=scope["method"],
                path=scope["path"][:500],
                client=client,
            )

    def _headers(self, request_info: RequestInfo) -> Iterable[tuple[bytes, bytes]]:
        yield REQUEST_ID.encode(), request_info.request_id.encode()
        yield b"x-content-type-options", b"nosniff"
        if self._service.stopping.is_set():
            yield b"connection", b"close"

    def _refuse_host(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Status and message for a request that is not addressed to this server. Browsers always say whom they mean;
        a probe that speaks HTTP/1.0 need not."""
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return None if not hosts and scope["http_version"] == "1.0" else (400, _ONE_HOST)
        return None if is_known(hosts[0], self._names) else (421, _UNKNOWN_HOST.format(hosts[0][:200]))

    def _is_foreign(self, scope: Scope, headers: Headers) -> bool:
        """Whether a page of another site sends something to be done: browsers ask for leave before they show such a
        page the answer, but not always before they send."""
        origin, known = headers.get("origin"), self._service.options.cors_origins
        if origin is None or scope["method"] in _READING or origin in known or "*" in known:
            return False
        host = headers.get("host")
        return origin not in (f"http://{host}", f"https://{host}")

    def _allowed(self, scope: Scope, headers: Headers) -> bool:
        key, method = self._service.options.api_key, scope["method"]
        if key is None or (method in ("GET", "HEAD") and scope["path"] in self._open_paths):
            return True
        if method == "OPTIONS" and self._service.options.cors_origins and "access-control-request-method" in headers:
            return "origin" in headers  # a browser asks whether it may send the key; the routes never see this
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

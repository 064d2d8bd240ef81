"""Who may ask, and what is around every request: an id, a deadline, a line in the log, the metrics."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import random
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .documentation import PATHS
from .options import ANY_HOST
from .request_errors import CLIENT_GONE, as_request_error
from .service import RequestInfo, Service
from .web_page import page_paths

_logger = logging.getLogger(__name__)
access_logger = logging.getLogger("ghostzoo.access")

_FOREIGN = "A page of another site may not send this; start the server with --cors-origin for that site to allow it."
_ONE_HOST = "A request must have one Host header; send the name or address of this server in it."
_UNKNOWN_HOST = (
    "This server does not answer to the name {!r}; start it with --allowed-host and that name, or use its address."
)
_READING = ("GET", "HEAD", "OPTIONS")
_NO_KEY = "This server requires its API key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
_VERSIONS = "This server speaks HTTP 1.1 and 2."
REQUEST_ID = "x-request-id"
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_ids = random.Random()  # noqa: S311  # no secret; the system's own source would let other threads run for each
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/@\[\]]+))(?::\d*)?")
_KEPT_HOSTS = 64
"""Hosts that were looked into; clients may send any."""

_MOST_NOTES = 2000
"""Characters that libraries print about the images of one request, in its line of the log."""

_INFERENCE, _HEALTH = "/inference.GRPCInferenceService", "/grpc.health.v1.Health"
_OPEN_PATHS = (
    frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
    | {f"{_INFERENCE}/ServerLive", f"{_INFERENCE}/ServerReady"}
    | {f"{_HEALTH}/Check", f"{_HEALTH}/List", f"{_HEALTH}/Watch"}
    | PATHS
)
"""What may be read without the key, over REST and gRPC: these hold nothing of the models."""


def log_access(
    service: Service, protocol: str, route: str, status: str, request_info: RequestInfo, **fields: object
) -> None:
    """Write the line of one answered request, and count it."""
    seconds = time.perf_counter() - request_info.started
    service.metrics.on_answer(protocol, route, status, seconds)
    if request_info.notes:
        fields["decoder"] = "; ".join(request_info.notes)[:_MOST_NOTES]
    known = {"protocol": protocol, "request_id": request_info.request_id, "route": route, "status": status}
    if access_logger.isEnabledFor(logging.INFO):  # and no stack is searched for who says it
        extra = {"fields": {**known, "ms": round(1000 * seconds, 3), **fields}}
        line = access_logger.makeRecord(access_logger.name, logging.INFO, "", 0, "request", (), None, extra=extra)
        access_logger.handle(line)


def request_id(given: str | None) -> str:
    """Return the id that a client gave, if it is a plain one, or a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else f"{_ids.getrandbits(128):032x}"


class Access:
    """Who may read what: the one table of open paths, and the key for all others."""

    def __init__(self, api_key: str | None, *, page: bool) -> None:
        self._key = api_key
        self._open = _OPEN_PATHS | (page_paths() if page else frozenset())

    def allows(self, path: str, headers: Mapping[str, str]) -> bool:
        """Whether ``path`` may be read by whom sends ``headers``, or metadata; names are in lower case."""
        return self._key is None or path in self._open or self.shows_key(headers)

    def shows_key(self, headers: Mapping[str, str]) -> bool:
        """Whether ``Authorization: Bearer KEY`` or ``X-API-Key: KEY`` shows it, in time that tells nothing of it."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        shown = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), (self._key or "").encode())


class AccessMiddleware:
    """See the module."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        options = service.options
        self._app = app
        self._service = service
        self._origins = options.cors_origins
        self._has_key = options.api_key is not None
        self._access = Access(options.api_key, page=options.page)
        self._names = frozenset(map(_plain, ("localhost", options.host, *options.allowed_hosts)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        if scope["type"] != "http":
            return
        headers = _headers(scope)
        deadline = asyncio.get_running_loop().time() + self._service.options.deadline
        client = (scope.get("client") or [None])[0]
        request_info = RequestInfo(request_id(headers.get(REQUEST_ID)), time.perf_counter(), deadline, receive, client)
        scope.setdefault("state", {})["request_info"] = request_info
        status = CLIENT_GONE

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given_id = (REQUEST_ID.encode(), request_info.request_id.encode())
                message["headers"] = [*message.get("headers", ()), given_id, _NO_SNIFFING]
                if self._service.stopping.is_set():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        self._service.metrics.on_request("http")
        try:
            if (refusal := self._refusal(scope, headers)) is not None:
                await _send_error(send_and_note, *refusal)
            else:
                await self._app(scope, receive, send_and_note)
        except ClientDisconnect:
            raise
        except Exception as error:
            fields = {"request_id": request_info.request_id}
            _logger.error("A request failed.", exc_info=error, extra={"fields": fields})
            if status == CLIENT_GONE:
                await _send_error(send_and_note, 500, str(as_request_error(error)))
        finally:
            fields = {"method": scope["method"], "path": scope["path"][:500], "client": client}
            log_access(self._service, "http", _route(scope), str(status), request_info, **fields)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Status and message for a request that is not to be answered."""
        if scope["http_version"] not in ("1.0", "1.1", "2"):
            return 505, _VERSIONS
        hosts = sum(name == b"host" for name, _ in scope["headers"])
        # Browsers always say whom they mean; a probe that speaks HTTP/1.0 need not.
        if hosts != 1 and (hosts or scope["http_version"] != "1.0"):
            return 400, _ONE_HOST
        if hosts and not self._is_known(headers["host"]):
            return 421, _UNKNOWN_HOST.format(headers["host"][:200])
        if self._is_foreign(scope, headers):
            return 403, _FOREIGN
        if not self._is_allowed(scope, headers):
            return 401, _NO_KEY
        return None

    def _is_known(self, host: str) -> bool:
        """Whether a ``Host`` header names this server, with an address, which no name service has had a hand in, or
        with one of its names: a page whose name an attacker points at this machine must not get through.

        gRPC needs no such check: browsers speak HTTP/2 within TLS only, and gRPC here has none.
        """
        if ANY_HOST in self._names:
            return True
        name, is_address = _name_in(host)
        return is_address or name in self._names

    def _is_foreign(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        """Whether a page of another site sends something to be done: browsers ask for leave before they show such a
        page the answer, but not always before they send."""
        origin = headers.get("origin")
        if origin is None or scope["method"] in _READING or origin in self._origins or "*" in self._origins:
            return False
        host = headers.get("host")
        return origin not in (f"http://{host}", f"https://{host}")

    def _is_allowed(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        method = scope["method"]
        if not self._has_key or method in ("GET", "HEAD"):
            return self._access.allows(scope["path"], headers)
        if method == "OPTIONS" and self._origins and "access-control-request-method" in headers:
            return "origin" in headers  # a browser asks whether it may send the key; the routes never see this
        return self._access.shows_key(headers)


async def _send_error(send: Send, status: int, message: str) -> None:
    """Answer a request whose body may not have been read."""
    body = json.dumps({"error": message}).encode()
    length = (b"content-length", str(len(body)).encode())
    head = [(b"content-type", b"application/json"), length, (b"connection", b"close")]
    if status == 401:
        head.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def _route(scope: Scope) -> str:
    """The route's pattern: a label for metrics must not be of the client's choosing."""
    return getattr(scope.get("route"), "path", None) or "other"


def _headers(scope: Scope) -> dict[str, str]:
    """The headers by name, and of several of one name the first, as Starlette gives them."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


@lru_cache(_KEPT_HOSTS)
def _name_in(host: str) -> tuple[str | None, bool]:
    """The name in a ``Host`` header, if it has the form of one, and whether it is an address."""
    found = _HOST.fullmatch(host)
    if found is None:
        return None, False
    name = found[1] or found[2]
    try:
        ip_address(name)
    except ValueError:
        return _plain(name), False
    return name, True

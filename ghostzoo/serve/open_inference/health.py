"""The standard health service of gRPC, https://grpc.io/docs/guides/health-checking/, for probes and load balancers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ..request_errors import not_found, overloaded
from ..service import RequestInfo, Service
from .messages import HEALTH_SERVICE, SERVICE, health_message

_NAMES = ("", SERVICE, HEALTH_SERVICE)
"""What is asked after; the empty name is the whole server."""
_MOST_WATCHERS = 16
"""Watching needs no key, and each watcher takes the place of a call."""
_INTERVAL = 1.0
"""Seconds between looks."""


class Health:
    """The methods of the service, by their names."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._watchers = 0

    async def Check(self, request: Any, _: RequestInfo) -> Any:  # noqa: N802
        if request.service not in _NAMES:
            raise not_found(
                f"There is no service {request.service[:80]!r} here; ask after {SERVICE}, or without a name after all."
            )
        return self._status(request.service)

    async def List(self, _: Any, __: RequestInfo) -> Any:  # noqa: N802
        return health_message("HealthListResponse")(statuses={name: self._status(name) for name in _NAMES})

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Tell the status now and whenever it has changed, until the server stops."""
        if self._watchers >= _MOST_WATCHERS:
            raise overloaded(f"{_MOST_WATCHERS} clients watch already, which is the most; use Check.")
        self._watchers += 1
        try:
            told = None
            while True:
                is_last = self._service.stopping.is_set()  # looked at before the status: that is told in any case
                status = self._status(request.service)
                if status != told:
                    yield status
                    told = status
                if is_last:
                    return
                try:
                    async with asyncio.timeout(_INTERVAL):
                        await self._service.stopping.wait()
                except TimeoutError:
                    continue
        finally:
            self._watchers -= 1

    def _status(self, name: str) -> Any:
        known = "SERVING" if self._service.ready else "NOT_SERVING"
        return health_message("HealthCheckResponse")(status=known if name in _NAMES else "SERVICE_UNKNOWN")

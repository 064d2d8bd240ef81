"""One call over gRPC: what is around each method, and how its message comes in.

A handler of a stream gets its messages when it asks for them, where one of a single message is called with the whole of
it. So all methods are handlers of streams here, which makes no difference to clients: who may not call, or comes when
there is no room, is answered while gRPC's flow control keeps all but the first of the message at the client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from ...errors import GhostZooError
from ..access import REQUEST_ID, Access, log_access, request_id
from ..compression import decompressed
from ..memory import Admission
from ..request_errors import RequestError, as_request_error, bad_request, late, overloaded
from ..service import RequestInfo, Service
from .wire import is_compressed

_logger = logging.getLogger(__name__)

UNREAD_BYTES = 256 * 2**10
"""What may come of a message before it is asked for; a window of HTTP/2, so that most messages come at once."""

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

_PATIENCE = 5.0
"""Seconds that a message may take to come while others wait for their turn."""
_PROBES_AT_ONCE = 2
_PROBE_SECONDS = 1.0
"""For messages of those who have shown no key: they are some bytes long, and come with the call."""

_ENDING_SECONDS = 0.05
"""Within them a call without a message is cancelled, if it is at its end: if the client has gone, or gRPC has refused a
message that is too large, which it does by itself."""

_NO_KEY = "This server requires its API key: send metadata 'authorization: Bearer KEY'."

_Result = TypeVar("_Result")
Parse = Callable[[Any], Any]
"""Makes a request of the bytes of its message."""
Run = Callable[[list[Any], RequestInfo], Awaitable[_Result]]
"""Answers the request in the list, out of which it takes it, so that what it no longer needs of it is free."""


@dataclass(frozen=True)
class Method:
    """What can be called."""

    name: str
    """For the log and the metrics."""
    parse: Parse | None
    """``None`` where requests say nothing, and need not come in."""
    is_probe: bool = False
    """Whether those may call it who show no key."""


class KeyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Refuses calls without the key, but for those that anyone may make."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._access = Access(service.options.api_key, page=False)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        metadata = _texts(details.invocation_metadata)
        if handler is None or self._access.allows(details.method, metadata):
            return handler
        request_info = RequestInfo(request_id(metadata.get(REQUEST_ID)), time.perf_counter(), 0.0)

        async def refuse(_: object, context: Any) -> None:
            service, name = self._service, details.method.rpartition("/")[2]
            service.metrics.on_request("grpc")
            log_access(service, "grpc", name, "UNAUTHENTICATED", request_info, client=context.peer())
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, _NO_KEY, ((REQUEST_ID, request_info.request_id),))

        return grpc.stream_unary_rpc_method_handler(refuse)


class Calls:
    """What all calls over gRPC share."""

    def __init__(self, service: Service) -> None:
        self._service = service
        # gRPC does not tell how large a message is before it is there, and then it is there twice, as gRPC has it too.
        room = 2 * service.options.limits.max_body_bytes
        self._turns = Admission(lambda others: service.memory.fits((others + 1) * room), _PATIENCE)
        self._probe_turns = Admission(lambda others: others < _PROBES_AT_ONCE, _PROBE_SECONDS)

    def unary(self, method: Method, answer: Callable[[Any, RequestInfo], Awaitable[Any]]) -> Any:
        """Return a handler for a method with one answer."""

        async def handle(_: object, context: Any) -> bytes | None:
            async def run(request: list[Any], request_info: RequestInfo) -> bytes:
                return bytes((await answer(request.pop(), request_info)).SerializeToString())

            return await self._run(method, context, run)

        return grpc.stream_unary_rpc_method_handler(handle)

    def streaming(self, method: Method, answers: Callable[[Any], AsyncIterator[Any]]) -> Any:
        """Return a handler for a method with many answers, which may go on after the deadline."""

        async def handle(_: object, context: Any) -> None:
            async def run(request: list[Any], _: RequestInfo) -> None:
                async for each in answers(request.pop()):
                    await context.write(each.SerializeToString())

            await self._run(method, context, run)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _run(self, method: Method, context: Any, run: Run[_Result]) -> _Result | None:
        """Around each call: an id, a deadline, a line in the log, the metrics, errors as statuses."""
        service = self._service
        metadata = _texts(context.invocation_metadata())
        left = context.time_remaining()
        seconds = service.options.deadline if left is None else min(service.options.deadline, left)
        deadline = asyncio.get_running_loop().time() + seconds
        request_info = RequestInfo(request_id(metadata.get(REQUEST_ID)), time.perf_counter(), deadline)
        status, details = grpc.StatusCode.OK, ""
        service.metrics.on_request("grpc")
        try:
            await context.send_initial_metadata(((REQUEST_ID, request_info.request_id),))
            with service.memory.held() as hold:
                return await run([await self._receive(method, context, deadline, hold)], request_info)
        except (RequestError, GhostZooError) as error:
            status, details = _status(error)  # the error itself has hold of the message, through its traceback
        except (asyncio.CancelledError, grpc.aio.InternalError):  # the latter where gRPC has ended the call itself
            status = grpc.StatusCode.CANCELLED
            raise asyncio.CancelledError from None
        except Exception as error:
            fields = {"request_id": request_info.request_id}
            _logger.error("A request failed.", exc_info=error, extra={"fields": fields})
            status, details = _status(error)
        finally:
            log_access(service, "grpc", method.name, status.name, request_info, client=context.peer())
        await _abort(context, status, details)
        return None

    async def _receive(self, method: Method, context: Any, deadline: float, hold: Callable[[int], None]) -> Any:
        """Return the request, once there is room for its message."""
        if method.parse is None:
            return None
        loop = asyncio.get_running_loop()
        largest = self._service.options.limits.max_body_bytes
        turns, end = self._turns, deadline
        if method.is_probe:
            turns, end = self._probe_turns, min(deadline, loop.time() + _PROBE_SECONDS)
        data: bytes | bytearray
        try:
            async with turns.turn(end):
                data = await context.read()  # iterating over them would keep a message for as long as the call lasts
                if data is not grpc.aio.EOF:
                    hold(len(data))
                    if is_compressed(data):
                        data = await asyncio.to_thread(decompressed, data, largest)
                        hold(len(data))
        except TimeoutError:
            if loop.time() >= deadline:
                raise late() from None
            self._service.metrics.on_rejected()
            raise overloaded("The message did not come in time, and others wait; send it faster, or later.") from None
        if data is grpc.aio.EOF:
            await asyncio.sleep(_ENDING_SECONDS)
            raise bad_request("No message came with the call; send one.")
        return method.parse(data)


def _texts(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _status(error: Exception) -> tuple[grpc.StatusCode, str]:
    known = as_request_error(error)
    return _CODES.get(known.status, grpc.StatusCode.INTERNAL), str(known)


async def _abort(context: Any, status: grpc.StatusCode, details: str) -> None:
    try:
        await context.abort(status, details)
    except grpc.aio.InternalError:  # the call has ended already
        raise asyncio.CancelledError from None

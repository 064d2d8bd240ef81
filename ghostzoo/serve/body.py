"""The body of a request, read within limits of size and time; nothing touches the disk."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from io import BytesIO
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from .memory import Hold
from .request_errors import ClientGoneError, RequestError, bad_request, late, too_large
from .service import Service

_DISCARD = 8
"""A body that is too large is read on and thrown away up to this many times the limit, so that a client that sends
all of it before it listens still hears why it was refused."""
_DISCARD_SECONDS = 5.0
_HERE = 256 * 1024
"""Bytes that are decompressed or parsed on the event loop; what is larger is left to a thread, so that other requests
do not wait for it."""
_STEP = 2**20
"""Bytes that are decompressed between two looks at the budget."""

_Result = TypeVar("_Result")


@asynccontextmanager
async def body_of(request: Request, service: Service) -> AsyncIterator[tuple[bytes, Hold]]:
    """Read the whole body, decompressed; its memory counts against the server's budget until the block ends, as does
    what the function beside it is told of.

    Raises:
        RequestError: it is too large, comes too slowly, breaks off, or the server's budget is used up.
    """
    with service.memory.held() as hold:
        try:
            async with asyncio.timeout_at(request.state.request_info.deadline):
                body = await _Reader(request, service, hold).read()
            yield body, hold
        except TimeoutError:
            message = "The body did not arrive within the request's deadline; send it faster."
            raise RequestError(HTTPStatus.REQUEST_TIMEOUT, message) from None
        except ClientDisconnect:
            raise ClientGoneError from None


class _Reader:
    def __init__(self, request: Request, service: Service, hold: Hold) -> None:
        self._request = request
        self._service = service
        self._hold = hold
        self._max_bytes = service.options.limits.max_body_bytes
        self._received = 0
        self._body = BytesIO()  # it grows in place and gives up its bytes without a copy
        self._decompressor = _decompressor(request.headers.get("content-encoding", "identity"))

    async def read(self) -> bytes:
        declared = self._request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            if self._request.headers.get("expect", "").lower() != "100-continue":
                await self._discard()
            raise self._too_large()
        with self._body:
            async for chunk in self._request.stream():
                self._received += len(chunk)
                if self._received > self._max_bytes or not await self._add(chunk):
                    break
            else:
                if self._decompressor is not None and not self._decompressor.eof:
                    raise bad_request("The compressed body breaks off; send it whole.")
                return self._body.getvalue()
        await self._discard()
        raise self._too_large()

    async def _add(self, chunk: bytes) -> bool:
        """Take what was received; return whether the body still fits."""
        if self._decompressor is None:
            self._hold(len(chunk))
            self._body.write(chunk)
            return True
        rest, step = chunk, _HERE
        while rest:
            before = self._body.tell()
            most = min(step, self._max_bytes - before)
            self._hold(most)
            if step == _HERE:
                rest = self._decompress(rest, most + 1)
            else:
                rest = await self._service.aside(self._decompress, rest, most + 1)
            after = self._body.tell()
            if after > self._max_bytes:
                return False
            self._hold(after - before - most)
            step = _STEP
        return True

    def _decompress(self, data: bytes, most: int) -> bytes:
        """Decompress ``most`` bytes at most out of ``data``; return what is left of it."""
        assert self._decompressor is not None  # noqa: S101  # the caller has looked
        if self._decompressor.eof:
            raise self._not_one_part()
        try:
            self._body.write(self._decompressor.decompress(data, most))
        except zlib.error as error:
            raise bad_request(f"The body is not compressed as its Content-Encoding says ({error}).") from error
        if self._decompressor.unused_data:
            raise self._not_one_part()
        return self._decompressor.unconsumed_tail

    async def _discard(self) -> None:
        received = 0
        try:
            async with asyncio.timeout(_DISCARD_SECONDS):
                async for chunk in self._request.stream():
                    received += len(chunk)
                    if received > _DISCARD * self._max_bytes:
                        return
        except (TimeoutError, RuntimeError):  # Starlette raises the latter where the stream was read to its end
            return

    def _not_one_part(self) -> RequestError:
        return bad_request("The body goes on after its compressed part has ended; send one compressed part.")

    def _too_large(self) -> RequestError:
        return too_large(
            f"The body is larger than the {self._max_bytes} bytes that this server takes; send fewer or smaller images."
        )


def _decompressor(encoding: str) -> zlib._Decompress | None:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in ("gzip", "deflate"):
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # tells gzip and zlib apart by itself
    raise RequestError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Encoding {name[:40]!r} is not read; use gzip, deflate or none."
    )


async def aside(
    request: Request, service: Service, size: int, work: Callable[..., _Result], *arguments: Any
) -> _Result:
    """Work on ``size`` bytes of a body: here, or in a thread where they are many.

    Raises:
        RequestError: the request's deadline has passed; and what ``work`` raises.
    """
    if size < _HERE:
        return work(*arguments)
    try:
        async with asyncio.timeout_at(request.state.request_info.deadline):
            return await service.aside(work, *arguments)
    except TimeoutError:
        raise late() from None

"""``baidu_std``, bRPC's own protocol: https://github.com/apache/brpc/blob/master/docs/en/baidu_std.md.

A packet is ``PRPC``, the size of what follows, the size of its meta (both big-endian), the meta, the message, and an
attachment, which Paddle Serving does not use. The requests of one connection are answered in their order; clients of
Paddle Serving open one for each that is under way. The key is what bRPC calls authentication data.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import time
from contextlib import suppress
from typing import Any

from google.protobuf.message import DecodeError

from ...errors import GhostZooError, OptionError
from ..access import Access, log_access, request_id
from ..compression import decompressed
from ..memory import Hold
from ..open_inference.inference import infer
from ..open_inference.tensors import (
    RequestedOutput,
)
from ..request_errors import RequestError, as_request_error, bad_request, late, too_large
from ..service import RequestInfo, Service
from .messages import FLOAT32, ErrorCode, RequestMessage, message, parse_request, read_values

SERVICE = "baidu.paddle_serving.predictor.general_model.GeneralModelService"
METHOD = "inference"
DEFAULT_OUTPUT = "prediction"
"""What the original's models call their scores."""

_HEAD = struct.Struct(">4sII")
_MAGIC = b"PRPC"
_MOST_META_BYTES = 64 * 2**10
_IDLE_SECONDS = 300.0
"""For which a connection may have no request."""
_LINGER_SECONDS = 5.0
"""For which the rest of a refused request is read, so that its client hears why."""
_STEP = 256 * 2**10
_HERE = 64 * 2**10
"""Bytes that are worked on without leaving the event loop."""
_COMPRESSIONS = (0, 2, 3)
"""None, gzip and zlib."""
_CODES = dict.fromkeys((400, 404, 413, 422), ErrorCode.EREQUEST) | {503: ErrorCode.ELIMIT, 504: ErrorCode.ERPCTIMEDOUT}
"""By the status of HTTP."""

_logger = logging.getLogger(__name__)


class _Refusal(Exception):  # noqa: N818
    """Refused by the meta alone, with one of bRPC's codes."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class BrpcServer:
    """Listens from the beginning, and accepts from ``start`` on.

    Raises:
        OptionError: the address cannot be had.
    """

    def __init__(self, service: Service) -> None:
        options = service.options
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        try:
            self._socket = socket.create_server((options.host, options.brpc_port or 0), family=family)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise OptionError(
                f"Cannot listen on {options.host}, port {options.brpc_port}: {reason}; choose another --brpc-port."
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self._service = service
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._socket, limit=_STEP)

    async def stop(self, seconds: float) -> None:
        """Accept nothing more, and answer what was accepted within so many seconds."""
        if self._server is None:
            self._socket.close()
            return
        self._server.close()
        for task in self._idle:
            task.cancel()
        if self._connections:
            _, late_ones = await asyncio.wait(self._connections, timeout=seconds)
            for task in late_ones:
                task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        connection = _Connection(self._service, reader, writer)
        self._connections.add(task)
        try:
            if len(self._connections) > self._service.options.queue_size:
                self._service.metrics.on_rejected()
                return
            while not self._service.stopping.is_set():
                self._idle.add(task)
                async with asyncio.timeout(_IDLE_SECONDS):
                    head = await reader.readexactly(_HEAD.size)
                self._idle.discard(task)
                if not await connection.answer(head):
                    return
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, TimeoutError):
            pass
        finally:
            self._idle.discard(task)
            self._connections.discard(task)
            writer.close()


class _Connection:
    def __init__(self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._service = service
        self._access = Access(service.options.api_key, page=False)
        self._reader = reader
        self._writer = writer
        self._left = 0
        """Bytes of the request that have not been read."""

    async def answer(self, head: bytes) -> bool:
        """Answer the request that begins with ``head``; return whether another may follow."""
        service = self._service
        deadline = asyncio.get_running_loop().time() + service.options.deadline
        client = (self._writer.get_extra_info("peername") or [None])[0]
        info = RequestInfo(request_id(None), time.perf_counter(), deadline, client=client)
        magic, self._left, meta_size = _HEAD.unpack(head)
        if magic != _MAGIC or meta_size > min(self._left, _MOST_META_BYTES):
            return False  # another protocol
        try:
            async with asyncio.timeout_at(deadline):
                meta = message("RpcMeta").FromString(await self._reader.readexactly(meta_size))
        except DecodeError:
            return False
        self._left -= meta_size
        service.metrics.on_request("brpc")
        code, text, body, status = ErrorCode.OK, "", b"", "CANCELLED"
        try:
            try:
                body = await self._run(meta, info)
            except _Refusal as refusal:
                code, text = refusal.code, str(refusal)
            except (RequestError, GhostZooError) as error:
                known = as_request_error(error)
                code, text = _CODES.get(known.status, ErrorCode.EINTERNAL), str(known)
            except (asyncio.IncompleteReadError, ConnectionError):
                raise
            except Exception as error:
                fields = {"request_id": info.request_id}
                _logger.error("A request failed.", exc_info=error, extra={"fields": fields})
                code, text = ErrorCode.EINTERNAL, str(as_request_error(error))
            status = code.name
        finally:
            log_access(service, "brpc", METHOD, status, info, client=client)
        await self._send(meta.correlation_id, code, text, body)
        return await self._skip()

    async def _run(self, meta: Any, info: RequestInfo) -> bytes:
        self._check(meta)
        with self._service.memory.held() as hold:
            data = await self._read(meta, info, hold)
            max_images = self._service.options.limits.max_images
            request: RequestMessage = await self._aside(len(data), parse_request, data, max_images)
            model = self._service.repository.get()
            values = await self._aside(len(data), read_values, model, request, max_images)
            del data
            log_id, name = request.log_id, (request.fetch or [DEFAULT_OUTPUT])[0]
            if len(request.fetch) > 1:
                raise bad_request(f"{model.name} has one output, its scores; fetch one, not {len(request.fetch)}.")
            del request
            (output,) = await infer(self._service, model, values, [RequestedOutput("scores")], info)
        answer = message("Response")(log_id=log_id)
        # As floats and as bytes: versions of the client differ in which of them they read.
        answer.outputs.add(engine_name="general_infer_0").tensor.add(
            name=name,
            alias_name=name,
            elem_type=FLOAT32,
            shape=output.values.shape,
            float_data=output.values.ravel().tolist(),
            tensor_content=output.to_bytes(),
        )
        return bytes(answer.SerializeToString())

    def _check(self, meta: Any) -> None:
        """Refuse what need not be read."""
        service, key = self._service, meta.authentication_data.decode("utf-8", "surrogateescape")
        if service.options.api_key is not None and not self._access.shows_key({"x-api-key": key}):
            raise _Refusal(
                ErrorCode.ERPCAUTH, "This server requires its API key: send it as the authentication data of bRPC."
            )
        if service.stopping.is_set():
            raise _Refusal(ErrorCode.ELOGOFF, "The server is shutting down; ask another.")
        if meta.request.service_name != SERVICE:
            raise _Refusal(
                ErrorCode.ENOSERVICE, f"There is no service {meta.request.service_name[:200]!r}, but {SERVICE}."
            )
        if meta.request.method_name != METHOD:
            raise _Refusal(ErrorCode.ENOMETHOD, f"There is no method {meta.request.method_name[:200]!r}, but {METHOD}.")
        if meta.compress_type not in _COMPRESSIONS:
            raise bad_request(f"Compression {meta.compress_type} is not read; send it with gzip, zlib or none.")
        if not 0 <= meta.attachment_size <= self._left:
            raise bad_request("The attachment is larger than the packet; send it whole.")

    async def _read(self, meta: Any, info: RequestInfo, hold: Hold) -> bytearray:
        """Return the message, decompressed; what it takes is counted twice, for what is made of it."""
        largest = self._service.options.limits.max_body_bytes
        if self._left > largest:
            raise too_large(f"The message is larger than the {largest} bytes that this server takes.")
        data = bytearray()
        try:
            async with asyncio.timeout_at(info.deadline):
                while self._left:
                    part = await self._reader.read(min(self._left, _STEP))
                    if not part:
                        raise asyncio.IncompleteReadError(b"", self._left)
                    self._left -= len(part)
                    hold(2 * len(part))
                    data += part
        except TimeoutError:
            raise late() from None
        if meta.attachment_size:
            del data[-meta.attachment_size :]
        if meta.compress_type:
            data = await asyncio.to_thread(decompressed, data, largest)
            hold(2 * len(data))
        return data

    async def _aside(self, size: int, work: Any, *arguments: Any) -> Any:
        return work(*arguments) if size < _HERE else await self._service.aside(work, *arguments)

    async def _send(self, correlation_id: int, code: ErrorCode, text: str, body: bytes) -> None:
        meta = message("RpcMeta")(correlation_id=correlation_id)
        meta.response.error_code = code
        meta.response.error_text = text
        encoded = meta.SerializeToString()
        with self._service.memory.counted(len(body)):
            self._writer.write(_HEAD.pack(_MAGIC, len(encoded) + len(body), len(encoded)) + encoded + body)
            try:
                async with asyncio.timeout(self._service.options.write_timeout):
                    await self._writer.drain()
            except TimeoutError:
                self._writer.transport.abort()  # closed, it would wait for the client for good
                raise

    async def _skip(self) -> bool:
        """Read on what was refused unread, and return whether it ended soon."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while self._left:
                    part = await self._reader.read(min(self._left, _STEP))
                    if not part:
                        return False
                    self._left -= len(part)
        return not self._left

"""The body of a request, read within limits of size and time; nothing touches the disk."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from .failures import ClientGoneError, RequestError, bad_request, too_large
from .service import Service

_IN_MEMORY = 2**40
"""The form parser would otherwise write large files to disk; the body as a whole is limited already."""
_DISCARD = 8
"""A body that is too large is read on and thrown away up to this many times the limit, so that a client that sends
all of it before it listens still hears why it was refused."""
_DISCARD_SECONDS = 5.0
FEW_VALUES = 1000
"""In JSON that holds no list of numbers."""

_Schema = TypeVar("_Schema", bound=BaseModel)


@asynccontextmanager
async def body_of(request: Request, service: Service) -> AsyncIterator[bytes]:
    """Read the whole body, decompressed; its memory counts against the server's budget until the block ends.

    Raises:
        RequestError: it is too large, comes too slowly, breaks off, or the server's budget is used up.
    """
    with service.memory.held() as hold:
        try:
            async with asyncio.timeout_at(request.state.exchange.deadline):
                body = await _Reader(request, service, hold).read()
            yield body
        except TimeoutError:
            message = "The body did not arrive within the request's deadline; send it faster."
            raise RequestError(HTTPStatus.REQUEST_TIMEOUT, message) from None
        except ClientDisconnect:
            raise ClientGoneError from None


class _Reader:
    def __init__(self, request: Request, service: Service, hold: Callable[[int], None]) -> None:
        self._size = 0
        self._request = request
        self._hold = hold
        self._limits = service.options.limits
        self._decompressor = _decompressor(request.headers.get("content-encoding", "identity"))

    async def read(self) -> bytes:
        declared = self._request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limits.max_body_bytes:
            if self._request.headers.get("expect", "").lower() != "100-continue":
                await self._discard()
            raise self._too_large()
        parts: list[bytes] = []
        async for chunk in self._request.stream():
            data = chunk
            while data:
                part, data = self._plain(data)
                self._size += len(part)
                self._hold(len(part))
                if self._size > self._limits.max_body_bytes:
                    parts.clear()
                    await self._discard()
                    raise self._too_large()
                parts.append(part)
        if self._decompressor is not None and not self._decompressor.eof:
            raise bad_request("The compressed body breaks off; send it whole.")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _plain(self, data: bytes) -> tuple[bytes, bytes]:
        """Decompress some of ``data``, never much more than fits; return it and what is left."""
        if self._decompressor is None:
            return data, b""
        if self._decompressor.eof:
            raise self._not_one_part()
        try:
            part = self._decompressor.decompress(data, self._limits.max_body_bytes - self._size + 1)
        except zlib.error as error:
            raise bad_request(f"The body is not compressed as its Content-Encoding says ({error}).") from error
        if self._decompressor.unused_data:
            raise self._not_one_part()
        return part, self._decompressor.unconsumed_tail

    async def _discard(self) -> None:
        received = 0
        try:
            async with asyncio.timeout(_DISCARD_SECONDS):
                async for chunk in self._request.stream():
                    received += len(chunk)
                    if received > _DISCARD * self._limits.max_body_bytes:
                        return
        except (TimeoutError, RuntimeError):  # Starlette raises the latter where the stream was read to its end
            return

    def _not_one_part(self) -> RequestError:
        return bad_request("The body goes on after its compressed part has ended; send one compressed part.")

    def _too_large(self) -> RequestError:
        return too_large(
            f"The body is larger than the {self._limits.max_body_bytes} bytes that this server takes; send fewer or "
            "smaller images."
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


def parse_form(content_type: str, body: bytes, max_files: int) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
    """Read a multipart form.

    Args:
        content_type: the request's, with the boundary.
        body: the whole body.
        max_files: how many files may be in it.

    Returns:
        The fields by name, and (file name, content) for each file, in order.

    Raises:
        RequestError: it is malformed, or has too many files.
    """
    fields: dict[str, str] = {}
    files: list[tuple[str, bytes]] = []

    def on_field(field: Field) -> None:
        if len(fields) >= max_files:
            raise too_large(f"The form has more than {max_files} fields.")
        fields[_text(field.field_name)] = _text(field.value)

    def on_file(file: File) -> None:
        if len(files) >= max_files:
            raise too_large(f"More than {max_files} images were sent in one call; send them in several.")
        file.file_object.seek(0)
        files.append((_text(file.file_name) or _text(file.field_name), file.file_object.read()))

    ended: list[bool] = []
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    try:
        parser = FormParser(
            "multipart/form-data",
            on_field,
            on_file,
            on_end=lambda: ended.append(True),
            boundary=boundary,
            config={"MAX_MEMORY_FILE_SIZE": _IN_MEMORY},
        )
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise bad_request(f"The body is no valid multipart form ({error}).") from error
    if not ended:  # the parser itself passes over a part that has no end
        raise bad_request("The multipart form has no end; send it whole.")
    return fields, files


def parse_json(schema: type[_Schema], body: bytes, most_values: int = FEW_VALUES) -> _Schema:
    """Read a JSON body.

    Raises:
        RequestError: it has more than ``most_values`` values, or is not as ``schema`` says.
    """
    # Once it is parsed, a value takes a hundred times the memory of its text; commas tell before how many there are.
    if body.count(b",") >= most_values:
        raise too_large(f"The JSON has more than the {most_values} values that one call takes; send less at once.")
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise bad_request(f"The JSON body is not as it should be: {_first_problem(error)}.") from error


def _first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")

"""The body of a request, read and parsed within limits of size, time and memory; nothing touches the disk."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message

from .compression import STEP, decompress, new_decompressor
from .memory import Hold
from .request_errors import ClientGoneError, RequestError, bad_request, late, too_large
from .service import RequestInfo, Service

if TYPE_CHECKING:
    from zlib import _Decompress as Decompressor

_HERE = 256 * 1024
"""Bytes that are decompressed or parsed on the event loop; what is larger is left to a thread, so that other requests
do not wait for it."""
_MOST_FIELD_BYTES = 8192

FEW_VALUES = 1000
"""In JSON that holds no list of numbers; as many names, objects and lists."""
MOST_NUMBERS = 910_000
"""In JSON: six images of 224 pixels. Python reads them one at a time while no other thread runs, about 50 ms for so
many, and they take ten times the memory of binary ones."""
_MOST_ESCAPES = 400_000
"""In JSON: as many lines of base64 are an image of 22 MiB. Python reads a text while no other thread runs, some 50 ms
for so many."""
_MOST_WIDE = 2**20
"""Bytes of characters that are not ASCII, in names and such."""
_NUMBER_BYTES = 64
"""A Python float in a list, the list that it is checked in, and its place in float64 and float32 arrays."""
_OBJECT_BYTES = 500
_LIST_BYTES = 150
_NAME_BYTES = 150
_DIGITS, _FRACTION = 18, 25
"""Digits of a whole number, and after a point, that are read as fast as any others; float32 has nine, float64 17."""
_LONG_NUMBER = re.compile(rb"[,\[]\s*-?(?:[0-9]{%d}|[0-9]*\.[0-9]{%d})" % (_DIGITS + 1, _FRACTION + 1))
_SCANNED = 2**20
"""Bytes that are looked at while no other thread runs."""
_ASCII = bytes(range(128))
_UNMARKED = bytes(set(range(128)) - set(b',[{:"\\\\'))
"""What says nothing about the structure of JSON, nor about how wide its texts are in memory."""

_Schema = TypeVar("_Schema", bound=BaseModel)
_Result = TypeVar("_Result")


@contextmanager
def body_of(request: Request) -> Iterator[Body]:
    """What the block takes of the body, and of what is made of it, counts against the server's budget until it ends."""
    service: Service = request.app.state.service
    with service.memory.held() as hold:
        yield Body(request, service, hold)


class Body:
    """The body of one request; ``hold`` counts more memory as the request's.

    Whatever reads or parses it raises ``RequestError`` where it is too large, comes too slowly, breaks off, is not what
    it should be, or the server's budget is used up.
    """

    def __init__(self, request: Request, service: Service, hold: Hold) -> None:
        self.request = request
        self.service = service
        self.info: RequestInfo = request.state.request_info
        self.hold = hold
        self._max_bytes = service.options.limits.max_body_bytes

    async def read(self) -> bytes:
        """Return all of it, decompressed."""
        with BytesIO() as whole:  # it grows in place and gives up its bytes without a copy
            async for part in self._parts():
                await self.aside(len(part), whole.write, part)  # which may move all that is there already
            return whole.getvalue()

    async def form(self) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
        """Return the fields of a multipart form by name, and (file name, content) for each file, in order."""
        most = self.service.options.limits.max_images
        parts = self._parts()
        parser = _FormParser(
            self.request.headers, parts, max_files=most, max_fields=most, max_part_size=_MOST_FIELD_BYTES
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith(("Too many", "Part exceeded")):
                raise too_large(f"The multipart form is too large: {error.message} Send images as files.") from error
            raise bad_request(f"The body is not a valid multipart form: {error.message}") from error
        finally:
            await parts.aclose()
        if not parser.ended:  # the parser itself passes over a part that has no end
            raise bad_request("The multipart form has no end; send it whole.")
        fields: dict[str, str] = {}
        files: list[tuple[str, bytes]] = []
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                size = value.size or 0
                self.hold(size)  # of a second copy, until the first is closed
                files.append((value.filename or name, await value.read()))
                self.hold(-size)
                await value.close()
            else:
                fields[name] = value
        return fields, files

    async def json(self, schema: type[_Schema], *, values: int = FEW_VALUES) -> _Schema:
        """Read all of it as JSON, see ``parse``."""
        return await self.parse(schema, await self.read(), values=values)

    async def parse(
        self, schema: type[_Schema], text: bytes, *, values: int = FEW_VALUES, numbers: int = 0, rows: int = 0
    ) -> _Schema:
        """Read JSON as ``schema`` says.

        Args:
            text: the JSON.
            values: how many values, names, objects and lists it may have,
            numbers: and numbers besides,
            rows: in so many lists.
        """
        # Parsed values take many times the memory of their text, and no other thread runs while they are made.
        self.hold(len(text))  # what is looked at, and then texts
        self.hold(await self.aside(len(text), _cost, text, values, min(numbers, MOST_NUMBERS), rows))
        return await self.aside(len(text), _validate, schema, text)

    async def aside(self, size: int, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Work on ``size`` bytes: here, or in a thread where they are many.

        Raises:
            RequestError: the request's deadline has passed; and what ``work`` raises.
        """
        if size < _HERE:
            return work(*arguments)
        try:
            async with asyncio.timeout_at(self.info.deadline):
                return await self.service.aside(work, *arguments)
        except TimeoutError:
            raise late() from None

    async def _parts(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes, decompressed, within the limits, and counted."""
        declared = self.request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise self._too_large()
        decompressor = _decompressor(self.request.headers.get("content-encoding", "identity"))
        received = plain = 0
        more = True
        while more:
            message = await self._next()
            chunk, more = message.get("body", b""), message.get("more_body", False)
            received += len(chunk)
            if received > self._max_bytes:
                raise self._too_large()
            if not chunk:
                continue
            if decompressor is None:
                self.hold(len(chunk))
                yield chunk
                continue
            async for part in self._decompress(decompressor, chunk, self._max_bytes - plain):
                plain += len(part)
                yield part
        if decompressor is not None and not decompressor.eof:
            raise bad_request("The compressed body breaks off; send it whole.")

    async def _next(self) -> Message:
        """What the client sends next."""
        try:
            async with asyncio.timeout_at(self.info.deadline):
                message = await self.request.receive()
        except TimeoutError:
            text = "The body did not arrive within the request's deadline; send it faster."
            raise RequestError(HTTPStatus.REQUEST_TIMEOUT, text) from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        return message

    async def _decompress(self, decompressor: Decompressor, data: bytes, left: int) -> AsyncGenerator[bytes, None]:
        """Decompress ``data`` into parts of ``left`` bytes in all at most."""
        step, more = _HERE, True
        while more:
            most = min(step, left)
            self.hold(most)
            if step == _HERE:
                part, data, more = decompress(decompressor, data, most)
            else:
                part, data, more = await self.service.aside(decompress, decompressor, data, most)
            if len(part) > left:
                raise self._too_large()
            left -= len(part)
            self.hold(len(part) - most)
            step = STEP
            yield part

    def _too_large(self) -> RequestError:
        return too_large(
            f"The body is larger than the {self._max_bytes} bytes that this server takes; send fewer or smaller images."
        )


class _FormParser(MultiPartParser):
    spool_max_size = 2**40
    """It would otherwise write large files to disk; the body as a whole is limited already."""
    ended = False

    def on_end(self) -> None:
        self.ended = True


def _decompressor(encoding: str) -> Decompressor | None:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in ("gzip", "deflate"):
        return new_decompressor()
    raise RequestError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"Content-Encoding {name[:40]!r} is not supported; use gzip, deflate or none.",
    )


def _cost(body: bytes, values: int, numbers: int, rows: int) -> int:
    """The bytes that ``body`` will take beyond its own size when it is parsed; some too many, as texts hold these
    characters, too."""
    limits = {
        b",": (values + numbers, "values"),
        b"[": (values + rows, "lists"),
        b"{": (values, "objects"),
        b":": (values, "names"),
        b'"': (4 * values, "strings"),
        b"\\": (_MOST_ESCAPES, "escaped characters"),
    }
    found = dict.fromkeys(limits, 0)
    long, wide, escapes_wide = 0, 0, False
    for start in range(0, len(body), _SCANNED):
        part = body[start : start + _SCANNED]
        marks = part.translate(None, _UNMARKED)
        for mark, (most, what) in limits.items():
            found[mark] += marks.count(mark)
            _check_count(found[mark], most, what)
        long += sum(1 for _ in _LONG_NUMBER.finditer(part))
        _check_count(long, values, f"numbers of over {_DIGITS} digits, or {_FRACTION} after the point,")
        wide += len(marks.translate(None, _ASCII))
        _check_count(wide, _MOST_WIDE, "bytes of characters other than ASCII")
        escapes_wide = escapes_wide or (b"\\" in marks and b"\\u" in part)
    is_wide = escapes_wide or wide > 0  # one wide character makes a whole text wide
    sizes = {b",": _NUMBER_BYTES, b"[": _LIST_BYTES, b"{": _OBJECT_BYTES, b":": _NAME_BYTES}
    return 3 * len(body) * is_wide + sum(found[mark] * size for mark, size in sizes.items())


def _check_count(count: int, most: int, what: str) -> None:
    if count > most:
        raise too_large(
            f"The JSON has more than the {most} {what} that one call takes; send less at once, images as files, or "
            "numbers as a binary tensor."
        )


def _validate(schema: type[_Schema], body: bytes) -> _Schema:
    try:
        content = from_json(body)  # on its own: where the schema refuses a text, it would be read once more
    except ValueError as error:
        raise bad_request(f"The JSON body is not as it should be: {error}.") from error
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise bad_request(f"The JSON body is invalid: {_first_problem(error)}.") from error


def read_parameters(schema: type[_Schema], parameters: Mapping[str, str]) -> _Schema:
    """Read the fields of a query or a form as ``schema`` says.

    Raises:
        RequestError: one is not as it should be.
    """
    try:
        return schema.model_validate(parameters)
    except ValidationError as error:
        raise bad_request(f"A parameter is invalid: {_first_problem(error)}.") from error


def _first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, problem["loc"]))[:200]  # the client's own words are in it
    return f"{place}: {problem['msg']}" if place else problem["msg"]

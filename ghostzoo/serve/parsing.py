"""Forms and JSON, read from the body of a request; both cost no more than is said beforehand."""

from __future__ import annotations

from io import BytesIO
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import Request

from .body import aside
from .memory import Hold
from .request_errors import bad_request, too_large
from .service import Service

_IN_MEMORY = 2**40
"""The form parser would otherwise write large files to disk; the body as a whole is limited already."""
_MOST_FIELD_BYTES = 8192

FEW_VALUES = 1000
"""In JSON that holds no list of numbers; as many names, objects and lists."""
MOST_NUMBERS = 3_000_000
"""In JSON. Python reads them one at a time while no other thread runs, a quarter of a second for so many, and they take
ten times the memory of binary ones."""
_NUMBER_BYTES = 64
"""A Python float in a list, the list that it is checked in, and its place in float64 and float32 arrays."""
_OBJECT_BYTES = 500
_LIST_BYTES = 150
_NAME_BYTES = 150
_UNMARKED = bytes(set(range(128)) - set(b',[{:"\\\\'))
"""What says nothing about the structure of JSON, nor about how wide its texts are in memory."""

_Schema = TypeVar("_Schema", bound=BaseModel)


async def read_form(
    request: Request, service: Service, body: bytes, hold: Hold
) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
    """Read a multipart form.

    Args:
        body: the whole body of ``request``.
        hold: is told the size of the files, which are copies.

    Returns:
        The fields by name, and (file name, content) for each file, in order.

    Raises:
        RequestError: it is malformed, has too many files or fields, or the server's budget is used up.
    """
    hold(len(body))
    content_type, max_files = request.headers["content-type"], service.options.limits.max_images
    return await aside(request, service, len(body), _parse_form, content_type, body, max_files)


def _parse_form(content_type: str, body: bytes, max_files: int) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
    fields: dict[str, str] = {}
    files: list[tuple[str, bytes]] = []

    def on_field(field: Field) -> None:
        if len(fields) >= max_files:
            raise too_large(f"The form has more than {max_files} fields.")
        if len(field.value or b"") > _MOST_FIELD_BYTES:
            raise too_large(f"A field of the form has more than {_MOST_FIELD_BYTES} bytes; send images as files.")
        fields[_text(field.field_name)] = _text(field.value)

    def on_file(file: File) -> None:
        if len(files) >= max_files:
            raise too_large(f"More than {max_files} images were sent in one call; send them in several.")
        content = file.file_object
        assert isinstance(content, BytesIO)  # noqa: S101  # by _IN_MEMORY
        files.append((_text(file.file_name) or _text(file.field_name), content.getvalue()))

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


async def read_json(
    request: Request,
    service: Service,
    schema: type[_Schema],
    body: bytes,
    hold: Hold,
    *,
    values: int = FEW_VALUES,
    numbers: int = 0,
    rows: int = 0,
) -> _Schema:
    """Read a JSON body.

    Args:
        hold: is told, before anything is parsed, what its values will take.
        values: how many values, names, objects and lists it may have,
        numbers: and numbers besides,
        rows: in so many lists.

    Raises:
        RequestError: it has more of them, is not as ``schema`` says, or the server's budget is used up.
    """
    # Parsed values take many times the memory of their text, and no other thread runs while they are made.
    hold(len(body))  # what is looked at, and then texts
    hold(await aside(request, service, len(body), _cost, body, values, min(numbers, MOST_NUMBERS), rows))
    return await aside(request, service, len(body), _validate, schema, body)


def _cost(body: bytes, values: int, numbers: int, rows: int) -> int:
    """The bytes that ``body`` will take beyond its own size when it is parsed; some too many, as texts hold these
    characters, too."""
    marks = body.translate(None, _UNMARKED)
    counts = (
        _count(marks, b",", values + numbers, "values"),
        _count(marks, b"[", values + rows, "lists"),
        _count(marks, b"{", values, "objects"),
        _count(marks, b":", values, "names"),
        _count(marks, b'"', 4 * values, "strings"),
    )
    # One wide character makes a whole text wide.
    wide = not marks.isascii() or (b"\\" in marks and b"\\u" in body)
    sizes = (_NUMBER_BYTES, _LIST_BYTES, _OBJECT_BYTES, _NAME_BYTES, 0)
    return 3 * len(body) * wide + sum(count * size for count, size in zip(counts, sizes, strict=True))


def _count(marks: bytes, mark: bytes, most: int, what: str) -> int:
    count = marks.count(mark)
    if count > most:
        raise too_large(
            f"The JSON has more than the {most} {what} that one call takes; send less at once, or numbers as a binary "
            "tensor."
        )
    return count


def _validate(schema: type[_Schema], body: bytes) -> _Schema:
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise bad_request(f"The JSON body is not as it should be: {_first_problem(error)}.") from error


def _first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, problem["loc"]))[:200]  # the client's own words are in it
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")

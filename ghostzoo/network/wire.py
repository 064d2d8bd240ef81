"""The wire format of Protocol Buffers, read strictly: what two readers could understand differently is refused.

Parsers merge messages that stand twice, keep the last of two numbers, pass over fields that they do not know, and cut
numbers off at 64 bits. A check is worth something only if the engine sees what the check saw, so none of these are read
here, nor groups, nor numbers that are written longer than need be. Messages come as spans of the data, which the caller
reads with the next schema; nothing is copied, and there is no recursion.

Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

Span = tuple[int, int]
"""Start and end of a message or of bytes in the data."""

MAX_TEXT_BYTES = 256
_VARINT, _FIXED32, _LENGTH = 0, 5, 2  # the wire types that ONNX's messages have, besides doubles
_FLOAT = struct.Struct("<f")


class RefusedGraphError(ValueError):
    """Why a graph is refused: the end of a sentence that begins with the file's name."""


class Kind(Enum):
    """How a field's value is read."""

    INT = auto()
    """A signed number of up to 64 bits."""
    FLOAT = auto()
    TEXT = auto()
    """Printable UTF-8 of up to ``MAX_TEXT_BYTES``."""
    SPAN = auto()
    """A message, or bytes: where it stands."""


@dataclass(frozen=True)
class Field:
    """A field of a message."""

    name: str
    kind: Kind
    most: int | None = None
    """How often it may be there, where it may be there more than once; the value is then a list."""


Schema = Mapping[int, tuple[Field, bool]]
"""Tag -> the field, and whether it is packed."""


def schema(fields: Mapping[int, Field]) -> Schema:
    """Make a schema of fields by their numbers."""
    tags: dict[int, tuple[Field, bool]] = {}
    for number, field in fields.items():
        wire = {Kind.INT: _VARINT, Kind.FLOAT: _FIXED32}.get(field.kind, _LENGTH)
        tags[number << 3 | wire] = field, False
        if field.most is not None and wire != _LENGTH:
            tags[number << 3 | _LENGTH] = field, True
    return tags


def read_message(data: bytes, span: Span, fields: Schema, refused: Mapping[int, str]) -> dict[str, Any]:
    """Read one message.

    Args:
        data: the whole file.
        span: where the message stands in it.
        fields: what it may hold.
        refused: what to say of fields that are known and not admitted, by their numbers.

    Raises:
        RefusedGraphError: it is damaged, or holds something else.
    """
    found: dict[str, Any] = {}
    position, end = span
    while position < end:
        start = position
        tag = data[position]
        position += 1
        if tag > 0x7F:
            tag, position = _varint(data, start, end)
        try:
            field, packed = fields[tag]
        except KeyError:
            number = tag >> 3
            raise RefusedGraphError(
                refused.get(number) or f"has a field that a GhostNet does not need (number {number}, at byte {start})"
            ) from None
        kind = field.kind
        value: Any
        if kind is Kind.SPAN or kind is Kind.TEXT or packed:
            position, stop = _length(data, position, end)
            if packed:
                value = _packed(data, (position, stop), field)
            elif kind is Kind.TEXT:
                value = _text(data, position, stop)
            else:
                value = position, stop
            position = stop
        elif kind is Kind.INT:
            value, position = _signed(data, position, end)
        else:
            if position + 4 > end:
                raise _damaged(start)
            (value,) = _FLOAT.unpack_from(data, position)
            position += 4
        name = field.name
        if field.most is None:
            if name in found:
                raise RefusedGraphError(
                    f"has {name} twice in one message (at byte {start}), which readers take differently"
                )
            found[name] = value
        elif packed:
            if name in found:
                raise RefusedGraphError(f"has {name} in pieces (at byte {start}), which a GhostNet does not need")
            found[name] = value
        else:
            values = found.setdefault(name, [])
            if len(values) >= field.most:
                raise too_many(field)
            values.append(value)
    return found


def too_many(field: Field) -> RefusedGraphError:
    return RefusedGraphError(f"has more than {field.most} of {field.name} in one message, more than a GhostNet needs")


def _packed(data: bytes, span: Span, field: Field) -> list[int] | list[float]:
    position, end = span
    most = field.most or 0
    if field.kind is Kind.FLOAT:
        count, rest = divmod(end - position, 4)
        if rest:
            raise _damaged(position)
        if count > most:
            raise too_many(field)
        return list(struct.unpack_from(f"<{count}f", data, position))
    values: list[int] = []
    while position < end:
        if len(values) >= most:
            raise too_many(field)
        value, position = _signed(data, position, end)
        values.append(value)
    return values


def _text(data: bytes, start: int, end: int) -> str:
    if end - start > MAX_TEXT_BYTES:
        raise RefusedGraphError(
            f"has a name of {end - start} bytes (at byte {start}), more than the {MAX_TEXT_BYTES} allowed"
        )
    try:
        text = data[start:end].decode()
    except UnicodeDecodeError:
        raise RefusedGraphError(f"has a name that is no UTF-8 (at byte {start})") from None
    if not text.isprintable():
        raise RefusedGraphError(f"has a name with control characters (at byte {start})")
    return text


def _length(data: bytes, position: int, end: int) -> Span:
    """Return where what follows a length begins and ends."""
    start = position
    if position < end and data[position] < 0x80:
        length, position = data[position], position + 1
    else:
        length, position = _varint(data, position, end)
    if length > end - position:  # a negative one is, without its sign, far larger
        raise _damaged(start)
    return position, position + length


def _signed(data: bytes, position: int, end: int) -> tuple[int, int]:
    if position < end and data[position] < 0x80:
        return data[position], position + 1
    value, position = _varint(data, position, end)
    return value - (1 << 64) if value >> 63 else value, position


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    start, value = position, 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64 or (byte == 0 and shift):  # over 64 bits, or longer than need be
                break
            return value, position
    raise _damaged(start)


def _damaged(position: int) -> RefusedGraphError:
    return RefusedGraphError(f"is no ONNX graph, or a damaged one (at byte {position})")

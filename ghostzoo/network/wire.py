"""The wire format of Protocol Buffers, read strictly: what two readers could understand differently is refused.

Parsers merge messages that stand twice, keep the last of two numbers, pass over fields that they do not know, and cut
numbers off at 64 bits. A check is worth something only if the engine sees what the check saw, so none of these are read
here, nor groups, nor numbers that are written longer than need be. Messages come as spans of the data, which the caller
reads with the next schema; nothing is copied, and there is no recursion.

Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

Span = tuple[int, int]
"""Start and end of a message or of bytes in the data."""

MAX_TEXT_BYTES = 256
_VARINT, _FIXED32, _LENGTH = 0, 5, 2  # the wire types that ONNX's messages have, besides doubles
_FLOAT = struct.Struct("<f")


class RefusedGraphError(ValueError):
    """Why a graph is refused: the rest of a sentence that begins with the file's name."""


class Kind(Enum):
    """How a field's value is read."""

    INT = auto()
    """A signed number of up to 64 bits."""
    FLOAT = auto()
    TEXT = auto()
    """Printable UTF-8 of up to ``MAX_TEXT_BYTES``."""
    SPAN = auto()
    """A message or bytes: its span."""


_INT, _FLOAT_VALUE, _TEXT, _SPAN, _PACKED = range(5)
_WIRES = {
    Kind.INT: (_VARINT, _INT),
    Kind.FLOAT: (_FIXED32, _FLOAT_VALUE),
    Kind.TEXT: (_LENGTH, _TEXT),
    Kind.SPAN: (_LENGTH, _SPAN),
}


@dataclass(frozen=True)
class Field:
    """A field of a message."""

    name: str
    kind: Kind
    most: int | None = None
    """Maximum count of a repeated field, whose value is a list; ``None`` for a single one."""


Schema = Mapping[int, tuple[str, int | None, int, Field]]
"""Tag -> name, how often it may be there, how its value is read, and the field itself: this is read very often."""


def schema(fields: Mapping[int, Field]) -> Schema:
    """Make a schema of fields by their numbers."""
    tags: dict[int, tuple[str, int | None, int, Field]] = {}
    for number, field in fields.items():
        wire, how = _WIRES[field.kind]
        tags[number << 3 | wire] = field.name, field.most, how, field
        if field.most is not None and wire != _LENGTH:
            tags[number << 3 | _LENGTH] = field.name, field.most, _PACKED, field
    return tags


def read_message(data: bytes, span: Span, fields: Schema, refused: Mapping[int, str]) -> dict[str, Any]:
    """Read one message.

    Args:
        data: the whole file.
        span: where the message stands in it.
        fields: what it may hold.
        refused: messages for known fields that are not allowed, by their numbers.

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
        known = fields.get(tag)
        if known is None:
            raise RefusedGraphError(refused.get(tag >> 3) or _unknown(tag >> 3, start))
        name, most, how, field = known
        value: Any
        if how >= _TEXT:
            position, stop = _length(data, position, end)
            if how == _TEXT:
                value = _text(data, position, stop)
            elif how == _SPAN:
                value = position, stop
            else:
                value = _packed(data, (position, stop), field)
            position = stop
        elif how == _INT:
            value, position = _signed(data, position, end)
        else:
            if position + 4 > end:
                raise _damaged(start)
            (value,) = _FLOAT.unpack_from(data, position)
            position += 4
        if most is None or how == _PACKED:
            if name in found:
                raise RefusedGraphError(
                    f"has {name} twice in one message (at byte {start}), which readers take differently"
                )
            found[name] = value
        elif name not in found:
            found[name] = [value]
        else:
            values = found[name]
            if len(values) >= most:
                raise _too_many(field)
            values.append(value)
    return found


def read_fields(data: bytes, span: Span) -> Iterator[tuple[int, Span, Span]]:
    """Yield the fields of a message that ``read_message`` admitted, in order: number, span, and span of the content.

    The content of a field with a length is what follows the length.
    """
    position, end = span
    while position < end:
        start = position
        tag, position = _varint(data, position, end)
        kind = tag & 7
        if kind == _LENGTH:
            position, stop = _length(data, position, end)
        elif kind == _VARINT:
            stop = _varint(data, position, end)[1]
        else:
            stop = position + 4
        yield tag >> 3, (start, stop), (position, stop)
        position = stop


def write_varint(value: int) -> bytes:
    """Write a number of at least 0."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


def write_field(number: int, content: bytes | int) -> bytes:
    """Write a field: a number, or a message, text or bytes with their length."""
    if isinstance(content, int):
        return write_varint(number << 3 | _VARINT) + write_varint(content)
    return write_varint(number << 3 | _LENGTH) + write_varint(len(content)) + content


def _unknown(number: int, position: int) -> str:
    return f"has a field that a GhostNet does not need (number {number}, at byte {position})"


def _too_many(field: Field) -> RefusedGraphError:
    return RefusedGraphError(f"has more than {field.most} of {field.name} in one message, more than a GhostNet needs")


def _packed(data: bytes, span: Span, field: Field) -> list[int] | list[float]:
    position, end = span
    most = field.most or 0
    if field.kind is Kind.FLOAT:
        count, rest = divmod(end - position, 4)
        if rest:
            raise _damaged(position)
        if count > most:
            raise _too_many(field)
        return list(struct.unpack_from(f"<{count}f", data, position))
    values: list[int] = []
    while position < end:
        if len(values) >= most:
            raise _too_many(field)
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
        raise RefusedGraphError(f"has a name that is not UTF-8 (at byte {start})") from None
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
    return RefusedGraphError(f"is not an ONNX graph, or is damaged (at byte {position})")

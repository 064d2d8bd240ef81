"""The format of FlatBuffers, read strictly: every field that a table has must be known, and lie within the file.

Libraries read these files in place and follow offsets without looking. What is read here is what they will read: a
field has one value whoever reads it, and fields that are not expected are refused rather than passed over. Tables come
as positions, which the caller reads with the next schema; nothing is copied, and there is no recursion.

Format: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from .wire import MAX_TEXT_BYTES, RefusedGraphError, Span

_IDENTIFIER_AT = 4


class Kind(Enum):
    """How a field's value is read."""

    BYTE = auto()
    INT = auto()
    UINT = auto()
    TEXT = auto()
    """UTF-8 of up to ``MAX_TEXT_BYTES``."""
    INTS = auto()
    LONGS = auto()
    FLOATS = auto()
    SPAN = auto()
    """Bytes: where they stand."""
    TABLE = auto()
    """Its position."""
    TABLES = auto()
    """Their positions."""


_SCALARS = {Kind.BYTE: struct.Struct("<b"), Kind.INT: struct.Struct("<i"), Kind.UINT: struct.Struct("<I")}
_SHORT, _UINT, _INT = struct.Struct("<H"), _SCALARS[Kind.UINT], _SCALARS[Kind.INT]
_ITEMS = {
    **{Kind.TABLES: _UINT, Kind.INTS: _INT, Kind.LONGS: struct.Struct("<q"), Kind.FLOATS: struct.Struct("<f")},
    **dict.fromkeys((Kind.TEXT, Kind.SPAN), struct.Struct("<B")),
}


@dataclass(frozen=True)
class Field:
    """A field of a table."""

    name: str
    kind: Kind
    most: int = 0
    """Length of a list at most."""


Schema = Mapping[int, Field]
"""Number of a field -> the field."""


class FlatBuffer:
    """A file."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def root(self, identifier: bytes) -> int:
        """Return the position of the outermost table.

        Raises:
            RefusedGraphError: the file has another identifier, or is damaged.
        """
        if self._data[_IDENTIFIER_AT : _IDENTIFIER_AT + len(identifier)] != identifier:
            raise RefusedGraphError(f"is not a file in the format {identifier.decode()}")
        return self._target(0)

    def read(self, position: int, fields: Schema) -> dict[str, Any]:
        """Read the table at ``position``; fields that it does not have are not in the result.

        Raises:
            RefusedGraphError: it is damaged, or has other fields.
        """
        vtable = position - self._number(_INT, position)
        size, _ = self._number(_SHORT, vtable), self._number(_SHORT, vtable + _SHORT.size)
        if size < 2 * _SHORT.size or size % _SHORT.size:
            raise _damaged(vtable)
        found = {}
        for number in range(size // _SHORT.size - 2):
            offset = self._number(_SHORT, vtable + (2 + number) * _SHORT.size)
            if not offset:
                continue
            if number not in fields:
                raise RefusedGraphError(
                    f"has a field that a GhostNet does not need (number {number}, at byte {position})"
                )
            found[fields[number].name] = self._value(position + offset, fields[number])
        return found

    def _value(self, position: int, field: Field) -> Any:
        if field.kind in _SCALARS:
            return self._number(_SCALARS[field.kind], position)
        target = self._target(position)
        if field.kind is Kind.TABLE:
            return target
        form = _ITEMS[field.kind]
        count, start = self._number(_UINT, target), target + _UINT.size
        if start + form.size * count > len(self._data):
            raise _damaged(target)
        if field.kind is Kind.SPAN:
            return start, start + count
        if field.kind is Kind.TEXT:
            return self._text((start, start + count))
        if count > field.most:
            raise RefusedGraphError(f"has more than {field.most} of {field.name}, more than a GhostNet needs")
        positions = range(start, start + form.size * count, form.size)
        if field.kind is Kind.TABLES:
            return [self._target(item) for item in positions]
        return [self._number(form, item) for item in positions]

    def _text(self, span: Span) -> str:
        start, end = span
        if end - start > MAX_TEXT_BYTES or self._data[end : end + 1] != b"\0":
            raise RefusedGraphError(f"has a name that is too long, or has no end (at byte {start})")
        try:
            text = self._data[start:end].decode()
        except UnicodeDecodeError:
            raise RefusedGraphError(f"has a name that is not UTF-8 (at byte {start})") from None
        if not text.isprintable():
            raise RefusedGraphError(f"has a name with control characters (at byte {start})")
        return text

    def _target(self, position: int) -> int:
        """Follow the offset at ``position``."""
        offset: int = self._number(_UINT, position)
        return position + offset

    def _number(self, form: struct.Struct, position: int) -> Any:
        if position < 0 or position % form.size or position + form.size > len(self._data):
            raise _damaged(position)
        return form.unpack_from(self._data, position)[0]


def _damaged(position: int) -> RefusedGraphError:
    return RefusedGraphError(f"is damaged (at byte {position})")

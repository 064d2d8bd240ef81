"""Requests as they come over gRPC, read without taking more memory than they have bytes.

Parsed as a whole, a message can take twenty times its size, and seconds: it may have millions of empty elements. So
what is large in a request is found in its bytes, and stays there; the rest must be small, and is all that is parsed.
The encoding is that of https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ..request_errors import RequestError, bad_request, too_large
from .messages import message

SMALL_BYTES = 64 * 2**10
"""Of a request without its tensors."""
_FEW_FIELDS = 1000
"""In a request, besides one for each image."""

VARINT, I64, LEN, I32 = 0, 1, 2, 5
"""Wire types."""
_SIZES = {I64: 8, I32: 4}

_REQUEST_INPUTS, _REQUEST_RAW = 5, 7
_TENSOR_CONTENTS = 5
_CONTENTS_FP32, _CONTENTS_BYTES = 6, 8
"""Numbers of the fields that can be large, in ModelInferRequest, InferInputTensor and InferTensorContents."""

_COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""How what is compressed by gzip or deflate begins. No request does: 0x1f is no field, and 0x78 is field 15."""


@dataclass
class InputContents:
    """An input of a request, and where its values are in the message."""

    tensor: Any = None
    """The InferInputTensor, without its contents."""
    present: bool = False
    fp32: list[memoryview] = field(default_factory=list)
    images: list[memoryview] = field(default_factory=list)

    def floats(self) -> NDArray[np.float32]:
        """Return the values of ``fp32_contents``.

        Raises:
            RequestError: they do not end with a whole value.
        """
        return join_floats(self.fp32)


@dataclass
class InferMessage:
    """A ModelInferRequest."""

    request: Any
    """The message without inputs and raw contents."""
    inputs: list[InputContents]
    raw: list[memoryview]


def parse(request_class: Any, data: bytes | bytearray) -> Any:
    """Parse a request that holds no tensors.

    Raises:
        RequestError: it is larger than such a request is, or no message of that class.
    """
    if len(data) > SMALL_BYTES:
        raise too_large(f"The request has {len(data)} bytes, of which at most {SMALL_BYTES} are taken; send less.")
    try:
        return request_class.FromString(bytes(data))
    except DecodeError:
        raise undecodable() from None


def parse_infer(data: bytes | bytearray, max_images: int) -> InferMessage:
    """Parse a ModelInferRequest; the values of its tensors stay where they are.

    Raises:
        RequestError: it has more fields than such a request has, much besides tensors, or is no such message.
    """
    return _InferParser(data, _FEW_FIELDS + max_images).parse()


def is_compressed(data: bytes | bytearray) -> bool:
    """Whether ``data`` is compressed by gzip or deflate, which gRPC tells its own code alone."""
    return data.startswith(_COMPRESSED)


class _InferParser:
    def __init__(self, data: bytes | bytearray, most_fields: int) -> None:
        self._data = memoryview(data)
        self._fields = Fields(most_fields)
        self._bytes_left = SMALL_BYTES

    def parse(self) -> InferMessage:
        inputs: list[InputContents] = []
        raw: list[memoryview] = []
        rest: list[memoryview] = []
        for number, kind, whole, content in self._fields.of(self._data):
            if (number, kind) == (_REQUEST_RAW, LEN):
                raw.append(content)
            elif (number, kind) == (_REQUEST_INPUTS, LEN):
                inputs.append(self._input(content))
            else:
                rest.append(self._small(whole))
        return InferMessage(parse(message("ModelInferRequest"), b"".join(rest)), inputs, raw)

    def _input(self, data: memoryview) -> InputContents:
        found = InputContents()
        rest: list[memoryview] = []
        for number, kind, whole, content in self._fields.of(data):
            if (number, kind) == (_TENSOR_CONTENTS, LEN):
                found.present = True
                self._add_contents(found, content)
            else:
                rest.append(self._small(whole))
        found.tensor = parse(message("ModelInferRequest").InferInputTensor, b"".join(rest))
        return found

    def _add_contents(self, found: InputContents, data: memoryview) -> None:
        for number, kind, _, content in self._fields.of(data):
            if number == _CONTENTS_FP32 and kind in (LEN, I32):
                found.fp32.append(content)
            elif (number, kind) == (_CONTENTS_BYTES, LEN):
                found.images.append(content)
            # Values of other types are for no input that there is, and their number is then found to be wrong.

    def _small(self, part: memoryview) -> memoryview:
        self._bytes_left -= len(part)
        if self._bytes_left < 0:
            raise too_large(f"The request has more than {SMALL_BYTES} bytes besides its tensors; send less.")
        return part


class Fields:
    """Reads the fields of messages, and of the messages in them, up to a number of them all.

    Args:
        most: how many fields one request may have.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def of(self, data: memoryview) -> Iterator[tuple[int, int, memoryview, memoryview]]:
        """Yield the fields of a message: number, wire type, the field with its tag, and its content.

        Raises:
            RequestError: there are too many, or it is no message.
        """
        position, end = 0, len(data)
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise too_large(
                    f"The request has more than {self._most} fields; send fewer values, and FP32 packed or raw."
                )
            start = position
            tag, position = read_varint(data, position)
            number, kind = tag >> 3, tag & 7
            size = _SIZES.get(kind, 0)
            if kind == LEN:
                size, position = read_varint(data, position)
            content = position
            if kind == VARINT:
                _, position = read_varint(data, position)
            elif kind == LEN or size:
                position += size
            else:  # groups, which no message here has
                raise undecodable()
            if position > end or number == 0:
                raise undecodable()
            yield number, kind, data[start:position], data[content:position]


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return a number of up to 64 bits, seven to a byte, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise undecodable()
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise undecodable()


def join_floats(parts: Sequence[memoryview | bytes]) -> NDArray[np.float32]:
    """Return the float32 values in ``parts``, one after the other, without a copy where there is one.

    Raises:
        RequestError: they do not end with a whole value.
    """
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if len(data) % 4:
        raise undecodable()
    return np.frombuffer(data, "<f4")


def undecodable() -> RequestError:
    return bad_request("The message cannot be decoded: it is damaged, or of another type; send one of this method's.")

"""The messages of ``baidu_std`` and of Paddle Serving's GeneralModelService.

As over gRPC, what is large in a request is found in its bytes and stays there. Paddle Serving's messages are of the
second version of protobuf, so floats may come one by one, each with its tag.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

from ..open_inference.inference import input_specs
from ..open_inference.tensors import FP32, PIXEL_VALUES, Values, count_elements, from_bytes, from_values
from ..open_inference.wire import I32, LEN, VARINT, Fields, join_floats, read_varint, undecodable
from ..repository import ServedModel
from ..request_errors import bad_request

FLOAT32, STRING = 1, 20
"""Of Paddle Serving's types of elements, those that an input may have."""
_REQUEST_TENSOR, _REQUEST_FETCH, _REQUEST_LOG_ID = 1, 2, 4
_FLOATS, _DATA, _ELEMENT_TYPE, _SHAPE, _CONTENT = 2, 9, 10, 11, 15
"""Numbers of the fields that are read, in Request and Tensor."""
_FEW_FIELDS = 1000
_MOST_SHAPE_BYTES = 80
_ONE_FLOAT = 5
"""Bytes of a float with its tag."""
_FLOAT_TAG = _FLOATS << 3 | I32
_FLOATS_AT_ONCE = 65_536

_F = descriptor_pb2.FieldDescriptorProto
_MESSAGES: dict[str, dict[str, tuple[int, int, int | str]]] = {
    "RpcRequestMeta": {"service_name": (1, 1, _F.TYPE_STRING), "method_name": (2, 1, _F.TYPE_STRING)},
    "RpcResponseMeta": {"error_code": (1, 1, _F.TYPE_INT32), "error_text": (2, 1, _F.TYPE_STRING)},
    "RpcMeta": {
        "request": (1, 1, "RpcRequestMeta"),
        "response": (2, 1, "RpcResponseMeta"),
        "compress_type": (3, 1, _F.TYPE_INT32),
        "correlation_id": (4, 1, _F.TYPE_INT64),
        "attachment_size": (5, 1, _F.TYPE_INT32),
        "authentication_data": (7, 1, _F.TYPE_BYTES),
    },
    "Tensor": {
        "float_data": (2, 3, _F.TYPE_FLOAT),
        "elem_type": (10, 1, _F.TYPE_INT32),
        "shape": (11, 3, _F.TYPE_INT32),
        "name": (13, 1, _F.TYPE_STRING),
        "alias_name": (14, 1, _F.TYPE_STRING),
        "tensor_content": (15, 1, _F.TYPE_BYTES),
    },
    "ModelOutput": {"tensor": (1, 3, "Tensor"), "engine_name": (2, 1, _F.TYPE_STRING)},
    "Response": {"outputs": (1, 3, "ModelOutput"), "log_id": (4, 1, _F.TYPE_UINT64)},
}
"""Field -> its number, its label (3 for repeated), its type; requests are read by ``parse_request``."""


@cache
def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="brpc.proto", package="ghostzoo.brpc", syntax="proto3")
    for name, fields in _MESSAGES.items():
        of = file.message_type.add(name=name)
        for each, (number, label, kind) in fields.items():
            is_message = isinstance(kind, str)
            given = {"type_name": f".ghostzoo.brpc.{kind}"} if is_message else {}
            of.field.add(name=each, number=number, label=label, type=_F.TYPE_MESSAGE if is_message else kind, **given)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"ghostzoo.brpc.{name}") for name in _MESSAGES}
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in found.items()}


def message(name: str) -> Any:
    """Return the class of a message, such as ``RpcMeta``."""
    return _classes()[name]


class ErrorCode(IntEnum):
    """bRPC's own codes of errors."""

    OK = 0
    ENOSERVICE = 1001
    ENOMETHOD = 1002
    EREQUEST = 1003
    ERPCAUTH = 1004
    ERPCTIMEDOUT = 1008
    EINTERNAL = 2001
    ELOGOFF = 2003
    ELIMIT = 2004


@dataclass
class TensorMessage:
    """An input, and where its values are in the message."""

    elem_type: int = 0
    shape: list[int] = field(default_factory=list)
    content: memoryview | None = None
    images: list[memoryview] = field(default_factory=list)
    _floats: list[memoryview | bytes] = field(default_factory=list)

    def floats(self) -> NDArray[np.float32]:
        """Return the values of ``float_data``.

        Raises:
            RequestError: they do not end with a whole value.
        """
        return join_floats(self._floats)

    def read(self, data: memoryview, fields: Fields) -> None:
        """Read the fields of a Tensor."""
        position = 0
        while position < len(data):
            for run in _unpacked(data[position:]):
                self._floats.append(run)
                position += len(run) // 4 * _ONE_FLOAT
            if position == len(data):
                break
            number, kind, whole, content = next(fields.of(data[position:]))
            position += len(whole)
            if (number, kind) == (_FLOATS, LEN):
                self._floats.append(content)
            elif (number, kind) == (_DATA, LEN):
                self.images.append(content)
            elif (number, kind) == (_CONTENT, LEN):
                self.content = content
            elif (number, kind) == (_ELEMENT_TYPE, VARINT):
                self.elem_type, _ = read_varint(content, 0)
            elif number == _SHAPE and kind in (VARINT, LEN):
                self._add_shape(content)

    def _add_shape(self, content: memoryview) -> None:
        position = 0
        while position < len(content):
            size, position = read_varint(content, position)
            self.shape.append(size)
            if position > _MOST_SHAPE_BYTES:
                raise undecodable()


@dataclass
class RequestMessage:
    """A Request of GeneralModelService."""

    tensors: list[TensorMessage]
    fetch: list[str]
    """Names of the wanted outputs."""
    log_id: int


def parse_request(data: bytes | bytearray | memoryview, max_images: int) -> RequestMessage:
    """Parse a Request; the values of its tensors stay where they are, but floats that come one by one.

    Raises:
        RequestError: it has more fields than such a request has, or is no such message.
    """
    fields = Fields(_FEW_FIELDS + max_images)
    found = RequestMessage([], [], 0)
    for number, kind, _, content in fields.of(memoryview(data)):
        if (number, kind) == (_REQUEST_TENSOR, LEN):
            found.tensors.append(TensorMessage())
            found.tensors[-1].read(content, fields)
        elif (number, kind) == (_REQUEST_FETCH, LEN):
            try:
                found.fetch.append(str(content[:200], "utf-8"))
            except UnicodeDecodeError:
                raise undecodable() from None
        elif (number, kind) == (_REQUEST_LOG_ID, VARINT):
            found.log_id, _ = read_varint(content, 0)
    return found


def read_values(model: ServedModel, request: RequestMessage, max_images: int) -> Values:
    """Return the images or pixels of a request.

    Raises:
        RequestError: they are not what the model takes.
    """
    if len(request.tensors) != 1:
        raise bad_request(f"{model.name} takes one input, images or pixels, not {len(request.tensors)}.")
    (tensor,) = request.tensors
    if tensor.elem_type == STRING:
        if not 0 < len(tensor.images) <= max_images:
            raise bad_request(f"The input has {len(tensor.images)} images; send from 1 to {max_images} in a call.")
        return [_image(image) for image in tensor.images]
    return _pixels(model, tensor, max_images)


def _image(data: memoryview) -> bytes:
    """An encoded image, which clients of the original send as base64."""
    given = bytes(data)
    try:
        return base64.b64decode(given, validate=True)
    except binascii.Error:
        return given


def _pixels(model: ServedModel, tensor: TensorMessage, max_images: int) -> Values:
    spec = input_specs(model)[PIXEL_VALUES]
    shape = tensor.shape if len(tensor.shape) != 3 else [1, *tensor.shape]
    kind = FP32 if tensor.elem_type == FLOAT32 else f"type {tensor.elem_type}"
    elements = count_elements(spec, kind, shape, max_images)
    if tensor.content:
        return from_bytes(spec, shape, elements, tensor.content)
    return from_values(spec, shape, elements, tensor.floats())


def _unpacked(data: memoryview) -> Iterator[bytes]:
    """The bytes of the floats with which ``data`` begins, where each has its tag."""
    while len(data) >= _ONE_FLOAT and data[0] == _FLOAT_TAG:
        count = min(len(data) // _ONE_FLOAT, _FLOATS_AT_ONCE)
        rows = np.frombuffer(data[: count * _ONE_FLOAT], np.uint8).reshape(count, _ONE_FLOAT)
        is_float = rows[:, 0] == _FLOAT_TAG
        if not is_float.all():
            count = int(is_float.argmin())
        yield rows[:count, 1:].tobytes()
        data = data[count * _ONE_FLOAT :]

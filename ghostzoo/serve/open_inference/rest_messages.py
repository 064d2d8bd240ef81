"""Requests and answers of the protocol over REST: JSON, and binary tensors behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any

import numpy as np
from fastapi.responses import Response
from pydantic import BaseModel, Field, StringConstraints

from ..answers import PacedResponse, json_text, json_text_response
from ..body import FEW_VALUES, Body
from ..repository import ServedModel
from ..request_errors import bad_request
from ..schemas import decode_base64, decoding_bytes
from .inference import find_spec, only_input
from .tensors import (
    BYTES,
    PIXEL_VALUES,
    InputSpec,
    OutputTensor,
    RequestedOutput,
    Values,
    count_elements,
    from_bytes,
    from_values,
    read_parameter,
)

JSON_LENGTH = "inference-header-content-length"

Text = Annotated[str, StringConstraints(max_length=1024)]


class InferInput(BaseModel):
    """An input tensor; its values are in `data`, or behind the JSON where it has a parameter `binary_data_size`."""

    name: Text
    shape: list[int] = Field(max_length=8)
    datatype: Text
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = Field(None, description="Numbers, nested or flat; for BYTES, encoded images in base64.")


class InferOutput(BaseModel):
    """An output that is wanted."""

    name: Text
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    """A request; without outputs, all are returned."""

    id: Text | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[InferInput] = Field(max_length=8)
    outputs: list[InferOutput] | None = Field(default=None, max_length=8)


class InferResponse(BaseModel):
    """The outputs."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[dict[str, Any]]


class RepositoryRequest(BaseModel):
    """Options of the repository's requests."""

    ready: bool | None = Field(default=None, description="For the index: loaded models only.")
    parameters: dict[str, Any] | None = None


def split(body: Body, text: bytes) -> tuple[bytes, memoryview]:
    """The JSON, and the binary tensors behind it."""
    declared = body.request.headers.get(JSON_LENGTH)
    if declared is None:
        return text, memoryview(b"")
    if not (declared.isascii() and declared.isdecimal() and len(declared) <= 12 and int(declared) <= len(text)):
        raise bad_request(
            f"Inference-Header-Content-Length is {declared[:40]!r}, but the body has {len(text)} bytes in all."
        )
    body.hold(int(declared))
    return text[: int(declared)], memoryview(text)[int(declared) :]


async def read_request(body: Body, head: bytes, specs: Mapping[str, InputSpec]) -> InferRequest:
    """Read the JSON of a request to a model with inputs as ``specs`` say; raises as ``Body.parse`` does."""
    max_images = body.service.options.limits.max_images
    *outer, _ = (max_images, *specs[PIXEL_VALUES].shape[1:])
    return await body.parse(
        InferRequest,
        head,
        values=FEW_VALUES + max_images,
        numbers=max_images * math.prod(specs[PIXEL_VALUES].shape[1:]),
        rows=sum(math.prod(outer[:depth]) for depth in range(1, len(outer) + 1)),
    )


def tensors_bytes(content: InferRequest, blob: memoryview, max_images: int) -> int:
    """The bytes that ``read_tensor`` takes for encoded images, which it copies or decodes."""
    encoded = [tensor for tensor in content.inputs if tensor.datatype == BYTES]
    values = chain.from_iterable((tensor.data or [])[:max_images] for tensor in encoded)
    texts = [text for text in map(_only, values) if isinstance(text, str)]
    return (len(blob) if encoded else 0) + decoding_bytes(texts) + sum(map(len, texts))


def read_tensor(content: InferRequest, blob: memoryview, model: ServedModel, max_images: int) -> Values:
    """Return the one input of a request.

    Raises:
        RequestError: it is not what the model takes, or not as long as its shape says.
    """
    tensor = only_input(model, content.inputs)
    spec = find_spec(model, tensor.name)
    elements = count_elements(spec, tensor.datatype, tensor.shape, max_images)
    size = read_parameter(tensor.parameters, "binary_data_size", int, -1)
    if (size >= 0) == (tensor.data is not None):
        raise bad_request(f"{spec.name} must have either data or the parameter binary_data_size.")
    if len(blob) > max(size, 0):
        raise bad_request(f"{len(blob) - max(size, 0)} bytes behind the request belong to no input.")
    if tensor.data is None:
        if size > len(blob):
            raise bad_request(f"{spec.name} is said to have {size} bytes, but only {len(blob)} are left.")
        return from_bytes(spec, tensor.shape, elements, blob)
    values = tensor.data
    if spec.datatype != BYTES:
        _check_numbers(spec, values)
    elif len(values) == elements:
        values = [_from_text(_only(value)) for value in values]
    return from_values(spec, tensor.shape, elements, values)


def _check_numbers(spec: InputSpec, values: list[Any]) -> None:
    """Refuse what is no number before NumPy sees it, which gives every text the space of the longest."""
    level: Iterable[Any] = values
    first: Any = values
    while isinstance(first, list) and first and isinstance(first[0], list):
        level, first = chain.from_iterable(level), first[0]
    try:
        kinds = set(map(type, level))
    except TypeError:  # a number where a row should be
        kinds = {list}
    if not kinds <= {int, float}:
        reason = "do not form a tensor: rows differ in length" if list in kinds else "are not all numbers"
        raise bad_request(f"The values of {spec.name} {reason}.")


def _only(value: Any) -> Any:
    """What is in a list of one; the rows of a tensor [N, 1] are such."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _from_text(text: Any) -> bytes:
    if not isinstance(text, str):
        raise bad_request("Encoded images in JSON are strings in base64.")
    return decode_base64(text)


def requested_output(output: InferOutput) -> RequestedOutput:
    return RequestedOutput(
        output.name,
        read_parameter(output.parameters, "classification", int, 0),
        read_parameter(output.parameters, "binary_data", bool, False),
    )


def render(model: str, request_id: str | None, outputs: Sequence[OutputTensor], all_binary: bool) -> Response:
    """Return the answer to a request, with ``outputs`` as JSON or binary tensors."""
    blobs = []
    tensors = []
    for output in outputs:
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.values.shape),
        }
        if all_binary or output.binary:
            blobs.append(output.to_bytes())
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
            tensors.append(json_text(tensor))
        else:
            # One image at a time: no other thread runs while a text is made.
            data = ", ".join(json_text(row.ravel().tolist())[1:-1] for row in np.atleast_2d(output.values))
            tensors.append(f'{json_text(tensor)[:-1]}, "data": [{data}]}}')
    content = {"model_name": model, "model_version": "1"}
    if request_id is not None:
        content["id"] = request_id
    head = f'{json_text(content)[:-1]}, "outputs": [{", ".join(tensors)}]}}'
    if not blobs:
        return json_text_response(head)
    encoded = head.encode()
    headers = {JSON_LENGTH: str(len(encoded))}
    return PacedResponse(b"".join([encoded, *blobs]), headers=headers, media_type="application/octet-stream")

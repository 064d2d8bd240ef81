"""The protocol over REST, with JSON tensors and with binary tensors behind the JSON."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, StringConstraints

from ..body import FEW_VALUES, body_of, parse_json
from ..classify import json_response
from ..documentation import SMALL_GIF, failures
from ..failures import bad_request
from ..repository import ServedModel
from ..schemas import decode_base64
from ..service import Service
from .inference import find_model, find_spec, infer, input_specs, model_metadata, server_metadata, with_timeout
from .tensors import (
    BYTES,
    PIXEL_VALUES,
    InputTensor,
    OutputTensor,
    RequestedOutput,
    count_elements,
    from_bytes,
    from_values,
    read_parameter,
)

JSON_LENGTH = "inference-header-content-length"
_PARSED_HERE = 64 * 1024
"""Larger JSON is parsed in a thread, so that other requests do not wait for it."""

Text = Annotated[str, StringConstraints(max_length=1024)]

_EXAMPLE_INPUT = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [SMALL_GIF]}

_JSON_LENGTH_HEADER = {
    "name": JSON_LENGTH,
    "in": "header",
    "schema": {"type": "integer", "minimum": 0},
    "description": "How much of the body is JSON; what follows are the binary tensors, as application/octet-stream.",
}

router = APIRouter(prefix="/v2", tags=["open inference protocol"])


class InferInput(BaseModel):
    """An input tensor; its values are in `data`, or behind the JSON where it has a parameter `binary_data_size`."""

    name: Text
    shape: list[int] = Field(max_length=8)
    datatype: Text
    parameters: dict[str, Any] = {}
    data: list[Any] | None = Field(None, description="Numbers, nested or flat; for BYTES, encoded images in base64.")


class InferOutput(BaseModel):
    """An output that is wanted."""

    name: Text
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """A request; without outputs, all are returned."""

    id: Text | None = None
    parameters: dict[str, Any] = {}
    inputs: list[InferInput] = Field(max_length=8)
    outputs: list[InferOutput] = Field([], max_length=8)


class InferResponse(BaseModel):
    """The outputs."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[dict[str, Any]]


class RepositoryRequest(BaseModel):
    """Options of the repository's requests."""

    ready: bool = Field(default=False, description="For the index: loaded models only.")
    parameters: dict[str, Any] = {}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.get("", summary="Server metadata", responses=failures(401))
async def server(request: Request) -> Response:
    return json_response(server_metadata())


@router.get("/health/live", summary="Is the server alive?", responses=failures(503))
async def live(request: Request) -> Response:
    _service(request).check_live()
    return json_response({"live": True})


@router.get("/health/ready", summary="Are all models ready?", responses=failures(503))
async def ready(request: Request) -> Response:
    _service(request).check_ready()
    return json_response({"ready": True})


@router.get("/models", summary="Names of the models", responses=failures(401))
async def names(request: Request) -> Response:
    return json_response({"models": _service(request).repository.names})


@router.get("/models/{name}", summary="Model metadata", responses=failures(401, 404, 503))
@router.get("/models/{name}/versions/{version}", include_in_schema=False)
async def metadata(request: Request, name: str, version: str | None = None) -> Response:
    return json_response(model_metadata(find_model(_service(request), name, version)))


@router.get("/models/{name}/ready", summary="Is a model ready?", responses=failures(401, 404, 503))
@router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
async def model_ready(request: Request, name: str, version: str | None = None) -> Response:
    return json_response({"name": find_model(_service(request), name, version).name, "ready": True})


@router.post(
    "/models/{name}/infer",
    summary="Infer",
    response_model=InferResponse,
    responses=failures(400, 401, 403, 404, 408, 413, 415, 422, 503, 504),
    openapi_extra={
        "parameters": [_JSON_LENGTH_HEADER],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/InferRequest"},
                    "example": {"inputs": [_EXAMPLE_INPUT]},
                },
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
    },
)
@router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
async def model_infer(request: Request, name: str, version: str | None = None) -> Response:
    """`pixel_values`, already preprocessed, or `images`, encoded; answers `logits`, `scores` and `labels`.

    With a header `Inference-Header-Content-Length`, the body is that much JSON and then the binary tensors.
    """
    service = _service(request)
    find_model(service, name, version)  # a wrong name is told before the body is read
    async with body_of(request, service) as body:
        head, blob = _split(request, body)
        while True:  # the model may be loaded anew while the body is read or parsed
            model = find_model(service, name, version)
            arguments = (head, blob, model, service.options.limits.max_images)
            parsed = _parse(*arguments) if len(head) < _PARSED_HERE else await asyncio.to_thread(_parse, *arguments)
            if find_model(service, name, version) is model:
                break
        content, inputs, requested = parsed
        exchange = with_timeout(request.state.exchange, content.parameters)
        outputs = await infer(service, model, inputs, requested, exchange)
    all_binary = not content.outputs and content.parameters.get("binary_data_output") is True
    return _render(model.name, content.id, outputs, all_binary)


@router.post("/repository/index", summary="Models, loaded or not", responses=failures(400, 401, 403, 413))
async def index(request: Request) -> Response:
    options = await _repository_request(request)
    rows = _service(request).repository.index()
    return json_response([row for row in rows if row["state"] == "READY" or not options.ready])


@router.post("/repository/models/{name}/load", summary="Load a model", responses=failures(400, 401, 403, 404, 413))
async def load(request: Request, name: str) -> Response:
    """Only models that the server was started with; a loaded one is loaded anew, while the old one serves on."""
    options = await _repository_request(request)
    if options.parameters:
        raise bad_request(f"Loading takes no parameters here; leave out {', '.join(options.parameters)[:200]}.")
    await _service(request).repository.load(name)
    return json_response({"name": name, "state": "READY"})


@router.post("/repository/models/{name}/unload", summary="Unload a model", responses=failures(400, 401, 403, 404, 413))
async def unload(request: Request, name: str) -> Response:
    """Requests that wait for it are answered first."""
    await _repository_request(request)
    await _service(request).repository.unload(name)
    return json_response({"name": name, "state": "UNAVAILABLE"})


async def _repository_request(request: Request) -> RepositoryRequest:
    async with body_of(request, _service(request)) as body:
        return parse_json(RepositoryRequest, body) if body.strip() else RepositoryRequest()


def _split(request: Request, body: bytes) -> tuple[bytes, memoryview]:
    """The JSON, and the binary tensors behind it."""
    declared = request.headers.get(JSON_LENGTH)
    if declared is None:
        return body, memoryview(b"")
    if not (declared.isascii() and declared.isdecimal() and len(declared) <= 12 and int(declared) <= len(body)):
        raise bad_request(
            f"Inference-Header-Content-Length is {declared[:40]!r}, but the body has {len(body)} bytes in all."
        )
    return body[: int(declared)], memoryview(body)[int(declared) :]


def _parse(
    head: bytes, blob: memoryview, model: ServedModel, max_images: int
) -> tuple[InferRequest, list[InputTensor], list[RequestedOutput]]:
    pixels = math.prod(input_specs(model)[PIXEL_VALUES].shape[1:])
    content = parse_json(InferRequest, head, FEW_VALUES + max_images * pixels)
    inputs = []
    for tensor in content.inputs[:2]:
        spec = find_spec(model, tensor.name)
        elements = count_elements(spec, tensor.datatype, tensor.shape, max_images)
        size = read_parameter(tensor.parameters, "binary_data_size", int, -1)
        if size >= 0 and tensor.data is None:
            if size > len(blob):
                raise bad_request(f"{spec.name} is said to have {size} bytes, but only {len(blob)} are left.")
            inputs.append(from_bytes(spec, tensor.shape, elements, blob[:size]))
            blob = blob[size:]
        elif tensor.data is not None and size < 0:
            values = [_from_text(text) for text in tensor.data] if spec.datatype == BYTES else tensor.data
            inputs.append(from_values(spec, tensor.shape, elements, values))
        else:
            raise bad_request(f"{spec.name} must have either data or the parameter binary_data_size.")
    if len(blob):
        raise bad_request(f"{len(blob)} bytes behind the request belong to no input.")
    return content, inputs, [_requested(output) for output in content.outputs]


def _from_text(text: Any) -> bytes:
    if not isinstance(text, str):
        raise bad_request("Encoded images in JSON are strings in base64.")
    return decode_base64(text)


def _requested(output: InferOutput) -> RequestedOutput:
    return RequestedOutput(
        output.name,
        read_parameter(output.parameters, "classification", int, 0),
        read_parameter(output.parameters, "binary_data", bool, False),
    )


def _render(model: str, request_id: str | None, outputs: Sequence[OutputTensor], all_binary: bool) -> Response:
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
        else:
            tensor["data"] = output.values.ravel().tolist()
        tensors.append(tensor)
    content = {"model_name": model, "model_version": "1", "outputs": tensors}
    if request_id is not None:
        content["id"] = request_id
    if not blobs:
        return json_response(content)
    head = json.dumps(content).encode()
    headers = {JSON_LENGTH: str(len(head))}
    return Response(b"".join([head, *blobs]), headers=headers, media_type="application/octet-stream")

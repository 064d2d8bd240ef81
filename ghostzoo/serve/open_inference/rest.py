"""The protocol over REST, with JSON tensors and with binary tensors behind the JSON."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ..answers import ApiRoute
from ..body import body_of
from ..documentation import SMALL_GIF, failures, json_body, with_body
from ..repository import ServedModel
from ..request_errors import overloaded
from ..service import Service
from .inference import (
    find_model,
    infer,
    input_specs,
    model_config,
    model_metadata,
    model_statistics,
    server_metadata,
    with_timeout,
)
from .rest_messages import (
    JSON_LENGTH,
    InferRequest,
    InferResponse,
    RepositoryRequest,
    read_request,
    read_tensor,
    render,
    requested_output,
    split,
    tensors_bytes,
)
from .tensors import Values

_VALUES_HERE = 8192
"""Values of an answer that are written on the event loop; more are left to a thread."""

_EXAMPLE_INPUT = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [SMALL_GIF]}

_JSON_LENGTH_HEADER = {
    "name": JSON_LENGTH,
    "in": "header",
    "schema": {"type": "integer", "minimum": 0},
    "description": "How much of the body is JSON; what follows are the binary tensors, as application/octet-stream.",
}

router = APIRouter(prefix="/v2", tags=["open inference protocol"], route_class=ApiRoute)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _model(request: Request) -> ServedModel:
    """Return the model that the path names; see ``find_model``."""
    return find_model(_service(request), request.path_params["name"], request.path_params.get("version"))


@router.get("", summary="Server metadata", responses=failures(401))
async def server() -> dict[str, Any]:
    return server_metadata()


@router.get("/health/live", summary="Is the server alive?", responses=failures(503))
async def live(request: Request) -> dict[str, bool]:
    _service(request).check_live()
    return {"live": True}


@router.get("/health/ready", summary="Are all models ready?", responses=failures(503))
async def ready(request: Request) -> dict[str, bool]:
    _service(request).check_ready()
    return {"ready": True}


@router.get("/models", summary="Names of the models", responses=failures(401))
async def names(request: Request) -> dict[str, list[str]]:
    return {"models": _service(request).repository.names}


@router.get("/models/{name}", summary="Model metadata", responses=failures(401, 404, 503))
@router.get("/models/{name}/versions/{version}", include_in_schema=False)
async def metadata(request: Request) -> dict[str, Any]:
    return model_metadata(_model(request))


@router.get("/models/{name}/ready", summary="Is a model ready?", responses=failures(401, 404, 503))
@router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
async def model_ready(request: Request) -> dict[str, Any]:
    return {"name": _model(request).name, "ready": True}


@router.get("/models/{name}/config", summary="Model configuration, as Triton's", responses=failures(401, 404, 503))
@router.get("/models/{name}/versions/{version}/config", include_in_schema=False)
async def config(request: Request) -> dict[str, Any]:
    return model_config(_model(request), _service(request).options.limits.max_images)


@router.get("/models/{name}/stats", summary="Statistics, as Triton's", responses=failures(401, 404, 503))
@router.get("/models/{name}/versions/{version}/stats", include_in_schema=False)
async def stats(request: Request) -> dict[str, Any]:
    return {"model_stats": [model_statistics(_service(request), _model(request))]}


@router.post(
    "/models/{name}/infer",
    summary="Infer",
    response_model=InferResponse,
    responses=failures(400, 401, 403, 404, 408, 413, 415, 422, 503, 504),
    openapi_extra=with_body(
        json_body(InferRequest, example={"inputs": [_EXAMPLE_INPUT]})
        | {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        _JSON_LENGTH_HEADER,
    ),
)
@router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
async def model_infer(request: Request) -> Response:
    """`pixel_values`, already preprocessed, or `images`, encoded; answers `logits`, `scores` and `labels`.

    With a header `Inference-Header-Content-Length`, the body is that much JSON and then the binary tensors; without any
    JSON, it is one encoded image.
    """
    service = _service(request)
    _model(request)  # a wrong name is told before the body is read
    max_images = service.options.limits.max_images
    with body_of(request) as body:
        head, blob = split(body, await body.read())
        model = _model(request)
        specs = input_specs(model)
        values: Values
        if blob and not head:  # one encoded image, and nothing else
            body.hold(len(blob))
            content, values = InferRequest(inputs=[]), [bytes(blob)]
        else:
            content = await read_request(body, head, specs)
            body.hold(tensors_bytes(content, blob, max_images))
            values = await body.aside(len(head) + len(blob), read_tensor, content, blob, model, max_images)
        model = _model(request)  # it may have been loaded anew meanwhile
        if input_specs(model) != specs:
            raise overloaded(f"{model.name} was loaded anew, with inputs of another shape; send the request again.")
        requested = [requested_output(output) for output in content.outputs or ()]
        outputs = await infer(service, model, values, requested, with_timeout(body.info, content.parameters or {}))
    all_binary = not content.outputs and (content.parameters or {}).get("binary_data_output") is True
    arguments = (model.name, content.id, outputs, all_binary)
    if sum(output.values.size for output in outputs) <= _VALUES_HERE:
        return render(*arguments)
    return await service.aside(render, *arguments)


_OPTIONS = {"requestBody": {"content": json_body(RepositoryRequest)}}  # which may be empty


@router.post(
    "/repository/index",
    summary="Models, loaded or not",
    responses=failures(400, 401, 403, 413),
    openapi_extra=_OPTIONS,
)
async def index(request: Request) -> list[dict[str, str]]:
    options = await _repository_request(request)
    return _service(request).repository.index(only_ready=bool(options.ready))


@router.post(
    "/repository/models/{name}/load",
    summary="Load a model",
    responses=failures(400, 401, 403, 404, 413),
    openapi_extra=_OPTIONS,
)
async def load(request: Request, name: str) -> dict[str, str]:
    """Only models that the server was started with; a loaded one is loaded anew, while the old one serves on."""
    options = await _repository_request(request)
    await _service(request).repository.load(name, options.parameters or ())
    return {"name": name, "state": "READY"}


@router.post(
    "/repository/models/{name}/unload",
    summary="Unload a model",
    responses=failures(400, 401, 403, 404, 413),
    openapi_extra=_OPTIONS,
)
async def unload(request: Request, name: str) -> dict[str, str]:
    """Requests that wait for it are answered first."""
    await _repository_request(request)
    await _service(request).repository.unload(name)
    return {"name": name, "state": "UNAVAILABLE"}


async def _repository_request(request: Request) -> RepositoryRequest:
    with body_of(request) as body:
        text = await body.read()
        return await body.parse(RepositoryRequest, text) if text.strip() else RepositoryRequest()

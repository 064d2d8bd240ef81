"""Which models are here, and their files for those who run them elsewhere, such as in the browser."""

from __future__ import annotations

import mimetypes

from fastapi import APIRouter, Request
from fastapi.responses import Response

from .answers import json_response
from .documentation import failures
from .request_errors import not_found
from .schemas import ModelsResponse
from .service import Service

router = APIRouter(tags=["models"])


@router.get("/v1/models", summary="List the models", response_model=ModelsResponse, responses=failures(401))
async def list_models(request: Request) -> Response:
    """The models of this server, the default first, with their engines and files."""
    service: Service = request.app.state.service
    return json_response({"models": service.repository.describe()})


@router.get(
    "/v1/models/{name}/files/{path:path}",
    summary="Get a file of a model's bundle",
    response_class=Response,
    responses=failures(401, 404, 503) | {200: {"content": {"application/octet-stream": {}}}},
)
async def get_file(request: Request, name: str, path: str) -> Response:
    """The verified content of one file, such as `onnx/model.onnx`, `config.json` or `preprocessor_config.json`."""
    service: Service = request.app.state.service
    bundle = service.repository.get(name).bundle
    record = bundle.manifest.files.get(path)
    if record is None:
        raise not_found(f"{name} has no file {path[:200]!r}; /v1/models lists its files.")
    etag = f'"{record.sha256}"'
    headers = {"etag": etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
    return await service.files.respond(bundle, path, headers, media_type)

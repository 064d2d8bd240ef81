"""What can be read: the models and their files, is the server alive and ready, what does it do."""

from __future__ import annotations

import asyncio
import mimetypes

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from ..bundle.manifest import MANIFEST_FILE
from .answers import ApiRoute, PacedResponse
from .documentation import failures
from .request_errors import not_found
from .schemas import ModelsResponse

router = APIRouter(route_class=ApiRoute)


@router.get(
    "/v1/models",
    tags=["models"],
    summary="List the models",
    response_model_exclude_unset=True,
    responses=failures(401),
)
async def list_models(request: Request) -> ModelsResponse:
    """The models of this server, the default first, with their engines and files."""
    return ModelsResponse(models=request.app.state.service.repository.describe())


@router.get(
    "/v1/models/{name}/files/{path:path}",
    tags=["models"],
    summary="Get a file of a model's bundle",
    response_class=Response,
    responses=failures(401, 404, 503) | {200: {"content": {"application/octet-stream": {}}}},
)
async def get_file(request: Request, name: str, path: str) -> Response:
    """The verified content of one file, such as `onnx/model.onnx` or `config.json`; `ghostzoo.json` lists them all. In
    browsers, it is what runs the model there."""
    service = request.app.state.service
    bundle = service.repository.get(name).bundle
    if path == MANIFEST_FILE:
        return Response(bundle.manifest.to_json(), media_type="application/json", headers={"cache-control": "no-cache"})
    record = bundle.manifest.files.get(path)
    if record is None:
        raise not_found(f"{name} has no file {path[:200]!r}; /v1/models lists its files.")
    etag = f'"{record.sha256}"'
    headers = {"etag": etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
    async with service.verifying:
        with service.memory.held(record.size):
            await asyncio.to_thread(bundle.read, path)
    return FileResponse(bundle.path / path, headers=headers, media_type=media_type)


@router.get(
    "/healthz",
    tags=["operation"],
    summary="Is the process alive?",
    response_class=PlainTextResponse,
    responses=failures(503),
)
async def healthz(request: Request) -> str:
    """200, or 503 when all workers have hung for ten times the deadline; restart the server then, or when this is not
    answered. Slow or shutting down is alive: for these there is `/readyz`."""
    request.app.state.service.check_live()
    return "ok\n"


@router.get(
    "/readyz",
    tags=["operation"],
    summary="May requests be sent here?",
    response_class=PlainTextResponse,
    responses=failures(503),
)
async def readyz(request: Request) -> str:
    """200 when the models are loaded, not all workers are overdue, and the server is not shutting down; else 503."""
    request.app.state.service.check_ready()
    return "ok\n"


@router.get(
    "/metrics",
    tags=["operation"],
    summary="Metrics for Prometheus",
    response_class=PlainTextResponse,
    responses=failures(401),
)
async def metrics(request: Request) -> Response:
    """Requests, errors, queue, batch sizes, and latency by stage."""
    return PacedResponse(request.app.state.service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

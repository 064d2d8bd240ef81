"""For those who run the server: is it alive, is it ready, what does it do."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from .answers import PacedResponse
from .documentation import failures
from .failures import overloaded

router = APIRouter(tags=["operation"], default_response_class=PlainTextResponse)


@router.get("/healthz", summary="Is the process alive?")
async def healthz(request: Request) -> Response:
    """Always 200; restart the server when this is not answered."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", summary="May requests be sent here?", responses=failures(503))
async def readyz(request: Request) -> Response:
    """200 when the models are loaded and the server is not shutting down, else 503."""
    if not request.app.state.service.ready:
        raise overloaded("The server is not ready: it is shutting down, or a model could not be loaded.")
    return PlainTextResponse("ok\n")


@router.get("/metrics", summary="Metrics for Prometheus", responses=failures(401))
async def metrics(request: Request) -> Response:
    """Requests, errors, queue, batch sizes, and latency by stage."""
    return PacedResponse(request.app.state.service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

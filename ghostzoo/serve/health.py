"""For those who run the server: is it alive, is it ready, what does it do."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from .answers import PacedResponse
from .documentation import failures

router = APIRouter(tags=["operation"], default_response_class=PlainTextResponse)


@router.get("/healthz", summary="Is the process alive?", responses=failures(503))
async def healthz(request: Request) -> Response:
    """200, or 503 when all workers have hung for ten times the deadline; restart the server then, or when this is not
    answered. Slow or shutting down is alive: for these there is `/readyz`."""
    request.app.state.service.check_live()
    return PlainTextResponse("ok\n")


@router.get("/readyz", summary="May requests be sent here?", responses=failures(503))
async def readyz(request: Request) -> Response:
    """200 when the models are loaded, not all workers are overdue, and the server is not shutting down; else 503."""
    request.app.state.service.check_ready()
    return PlainTextResponse("ok\n")


@router.get("/metrics", summary="Metrics for Prometheus", responses=failures(401))
async def metrics(request: Request) -> Response:
    """Requests, errors, queue, batch sizes, and latency by stage."""
    return PacedResponse(request.app.state.service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

"""The HTTP application: routes, error answers, middleware."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from .. import __version__
from ..errors import GhostZooError
from . import classify, models, operation, paddle
from .access import REQUEST_ID, AccessMiddleware
from .classify import json_response
from .documentation import DESCRIPTION, document
from .failures import RequestError, as_request_error
from .open_inference import rest
from .page_files import PageFiles, page_paths
from .schemas import ClassifyRequest
from .service import Service

_BODY_UNREAD = (408, 413, 503)
"""After these answers some of the body may still be on its way."""


def create_app(service: Service) -> FastAPI:
    """Return the ASGI application of ``service``. Middleware of a user's own, such as tracing, goes around it."""
    app = FastAPIOffline(
        title="ghostzoo",
        version=__version__,
        description=DESCRIPTION,
        redoc_url=None,
        swagger_ui_parameters={"tryItOutEnabled": True},
    )
    app.state.service = service
    app.add_exception_handler(HTTPException, _answer_http_error)
    for kind in (RequestError, GhostZooError):
        app.add_exception_handler(kind, _answer_error)
    for module in (classify, models, operation, rest, paddle):
        app.include_router(module.router)
    document(
        app, (ClassifyRequest, rest.InferRequest, rest.RepositoryRequest, paddle.PaddlexRequest, paddle.PipelineRequest)
    )
    options = service.options
    open_paths: frozenset[str] = frozenset()
    if options.page:
        app.router.default = PageFiles()  # for what no route takes; a mount would hide that a method is not allowed
        open_paths = page_paths()
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID, "inference-header-content-length", "retry-after"],
        )
    app.add_middleware(AccessMiddleware, service=service, open_paths=open_paths)
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    known = as_request_error(error)
    headers = {} if known.retry_after is None else {"retry-after": str(known.retry_after)}
    return error_response(known.status, str(known), headers)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # what the handler is registered for
    return error_response(error.status_code, f"{error.detail}: {request.method} {request.url.path}", error.headers)


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the form that all of this server's REST answers have."""
    if status in _BODY_UNREAD:
        headers = {**(headers or {}), "connection": "close"}
    return json_response({"error": message}, status, headers)

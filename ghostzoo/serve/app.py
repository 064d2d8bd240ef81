"""The HTTP application: routes, error answers, middleware."""

from __future__ import annotations

from fastapi import Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from . import classify, explain, information, paddle
from .access import REQUEST_ID, AccessMiddleware
from .answers import error_response
from .documentation import new_app
from .lingering import LingeringMiddleware
from .open_inference import rest
from .service import Service
from .web_page import PageFiles

_MODULES = (classify, explain, information, rest, paddle)


def create_app(service: Service) -> ASGIApp:
    """Return the ASGI application of ``service``. Middleware of a user's own, such as tracing, goes around it."""
    options = service.options
    # Included routers would be asked for their route anew by each request.
    app = new_app([route for module in _MODULES for route in module.router.routes])
    app.state.service = service
    app.add_exception_handler(HTTPException, _answer_http_error)
    if options.page:
        app.router.default = PageFiles()
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID, "inference-header-content-length", "retry-after"],
        )
    return LingeringMiddleware(AccessMiddleware(app, service), options.write_timeout)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # what the handler is registered for
    return error_response(error.status_code, f"{error.detail}: {request.method} {request.url.path}", error.headers)

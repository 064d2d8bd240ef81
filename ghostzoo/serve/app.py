"""The HTTP application: routes, error answers, middleware.

FastAPI writes the document and shows it; requests do not go through it. Their routes are its routes, on Starlette's
router: a quarter of a millisecond less for each request, which is as long as the smallest network runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from .._version import __version__
from ..errors import GhostZooError
from . import classify, health, models, paddle
from .access import REQUEST_ID, AccessMiddleware
from .answers import json_response
from .documentation import PATHS, document, documentation
from .open_inference import rest
from .open_inference.rest_messages import InferRequest, RepositoryRequest
from .request_errors import RequestError, as_request_error
from .schemas import ClassifyRequest
from .service import Service
from .web_page import PageFiles, page_paths

_BODY_UNREAD = (408, 413, 503)
"""After these answers some of the body may still be on its way."""
_MODULES = (classify, models, health, rest, paddle)


def create_app(service: Service) -> ASGIApp:
    """Return the ASGI application of ``service``. Middleware of a user's own, such as tracing, goes around it."""
    options = service.options
    app: ASGIApp = Application(service, PageFiles() if options.page else None)
    if options.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID, "inference-header-content-length", "retry-after"],
        )
    return AccessMiddleware(app, service, page_paths() if options.page else frozenset())


class Application:
    """Finds what answers a request: a route, the document, or a file of the page."""

    def __init__(self, service: Service, page: ASGIApp | None) -> None:
        self._documentation = _documentation()
        self._documentation.state.service = service
        self._page = page
        routes = [route for module in _MODULES for route in module.router.routes if isinstance(route, APIRoute)]
        self._router = Router(
            [Route(route.path, _Endpoint(route), methods=route.methods) for route in routes], default=self._other
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self._documentation  # the handlers find the service in its state
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            answer = await _answer_http_error(Request(scope), error)
            await answer(scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PATHS:
            await self._documentation(scope, receive, send)
        elif self._page is not None:
            await self._page(scope, receive, send)
        else:
            raise HTTPException(404)


class _Endpoint:
    """The function behind a route: a request in, an answer out, a failure in the form that all of them have."""

    def __init__(self, route: APIRoute) -> None:
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self._route
        answer: Response
        try:
            answer = await self._route.endpoint(Request(scope, receive), **scope["path_params"])
        except (RequestError, GhostZooError) as error:
            answer = _answer_failure(error)
        await answer(scope, receive, send)


def _answer_failure(error: Exception) -> Response:
    """In a function of its own: a frame that keeps an error which has gone through it keeps the request's body, too."""
    known = as_request_error(error)
    headers = {} if known.retry_after is None else {"retry-after": str(known.retry_after)}
    return error_response(known.status, str(known), headers)


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the form that all of this server's REST answers have."""
    if status in _BODY_UNREAD:
        headers = {**(headers or {}), "connection": "close"}
    return json_response({"error": message}, status, headers)


def _documentation() -> FastAPI:
    app = documentation("ghostzoo", __version__)
    app.add_exception_handler(HTTPException, _answer_http_error)
    for module in _MODULES:
        app.include_router(module.router)
    document(app, (ClassifyRequest, InferRequest, RepositoryRequest, paddle.PaddlexRequest, paddle.PipelineRequest))
    return app


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # what the handler is registered for
    return error_response(error.status_code, f"{error.detail}: {request.method} {request.url.path}", error.headers)

"""What the OpenAPI document says beyond the types: request bodies in several forms, examples, failures."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .schemas import MAX_TOP_K, MIN_SCORE, TOP_K, ErrorResponse

DESCRIPTION = """\
GhostNet image classifiers. `/v1` is this server's own API; `/v2` is the Open Inference Protocol, which gRPC speaks too;
`/image-classification` and `/{name}/prediction` are for clients of PaddleX and Paddle Serving.

A request whose `Host` is neither an address nor a name that the server knows is answered with 421.
"""

_FILES = "/static-offline-docs"
_PAGE, _DOCUMENT = "/docs", "/openapi.json"
_SCRIPT, _STYLE, _ICON = (f"{_FILES}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"))

PATHS = frozenset({_PAGE, _DOCUMENT, _SCRIPT, _STYLE, _ICON})
"""The URL paths of the document, and of all that shows it."""

_POLICY = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)

SMALL_GIF = "R0lGODlhAQABAIAAAP8AAP///yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="
"""A red pixel."""

_TEXT = {"type": "string", "maxLength": 200}

QUERY: list[dict[str, Any]] = [
    {
        "name": "top_k",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K},
        "description": f"{TOP_K} Here, in a form's field, or in the JSON body, as all of these.",
    },
    {
        "name": "min_score",
        "in": "query",
        "schema": {"type": "number", "minimum": 0, "maximum": 1},
        "description": MIN_SCORE,
    },
    {"name": "model", "in": "query", "schema": _TEXT, "description": "By default the first model of the server."},
    {"name": "engine", "in": "query", "schema": _TEXT, "description": "By default the first engine of the server."},
]

CLASSIFY_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {
                    "files": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
                    "top_k": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K},
                    "min_score": {"type": "number", "minimum": 0, "maximum": 1},
                    "model": _TEXT,
                    "engine": _TEXT,
                },
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "application/json": {
            "schema": {"$ref": "#/components/schemas/ClassifyRequest"},
            "examples": {
                "base64": {"value": {"images": [{"base64": SMALL_GIF, "name": "red.gif"}], "top_k": 3}},
                "url": {
                    "summary": "Needs --allow-urls.",
                    "value": {"images": [{"url": "https://example.com/cat.jpg"}]},
                },
            },
        },
    },
}


def documentation(title: str, version: str) -> FastAPI:
    """Return an application that serves the document, and a page that shows it without asking any other server."""
    app = FastAPIOffline(
        title=title,
        version=version,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=_DOCUMENT,
        static_url=_FILES,
    )
    app.add_api_route(_PAGE, _show, include_in_schema=False)
    return app


async def _show(request: Request) -> Response:
    root = request.scope.get("root_path", "")
    answer = get_swagger_ui_html(
        openapi_url=root + _DOCUMENT,
        title=request.app.title,
        swagger_js_url=root + _SCRIPT,
        swagger_css_url=root + _STYLE,
        swagger_favicon_url=root + _ICON,
        swagger_ui_parameters={"tryItOutEnabled": True},
    )
    digests = (hashlib.sha256(script).digest() for script in _INLINE_SCRIPT.findall(answer.body))
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    answer.headers["content-security-policy"] = _POLICY.format(scripts=scripts)
    answer.headers["referrer-policy"] = "no-referrer"
    return answer


def document(app: FastAPI, bodies: Sequence[type[BaseModel]]) -> None:
    """Give ``app`` its OpenAPI document: what FastAPI finds, and ``bodies``, which the routes read themselves."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes, tags=None
            )
            _, definitions = models_json_schema(
                [(model, "validation") for model in bodies], ref_template="#/components/schemas/{model}"
            )
            schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that fails with these statuses."""
    return {
        status: {"model": ErrorResponse, "description": HTTPStatus(status).phrase}
        | ({"headers": _RETRY_AFTER} if status == HTTPStatus.SERVICE_UNAVAILABLE else {})
        for status in statuses
    }


_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait before the next try."}}

"""What the OpenAPI document says beyond the types: request bodies in several forms, examples, failures."""

from __future__ import annotations

import base64
import hashlib
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from .._version import __version__
from ..names import LANGUAGES
from .schemas import MAX_TOP_K, ErrorResponse

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
_FILE = {"type": "string", "format": "binary"}
_SHARE = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "top_k": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K},
    "min_score": {"type": "number", "minimum": 0, "maximum": 1},
    "calibrated": {"type": "boolean"},
    "coverage": _SHARE,
    "unknown_below": _SHARE,
    "group": {"type": "string", "minLength": 1, "maxLength": 2000},
    "index": _TEXT,
    "against": _TEXT,
    "model": _TEXT,
    "engine": _TEXT,
}
_OF_EXPLANATIONS = ("index", "against")
_OF_CLASSES = ("top_k", "min_score", "calibrated", "coverage", "unknown_below", "group")
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait before the next try."}}

_bodies: list[type[BaseModel]] = []
"""What handlers read themselves, so that FastAPI does not find it."""


def new_app(routes: list[BaseRoute]) -> FastAPI:
    """Return an application with ``routes``, the document, and a page that shows it without asking any other server."""
    app = FastAPIOffline(
        title="ghostzoo",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=_DOCUMENT,
        static_url=_FILES,
        routes=routes,
    )
    app.add_api_route(_PAGE, _show, include_in_schema=False)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes, tags=None
            )
            _, definitions = models_json_schema(
                [(model, "validation") for model in _bodies], ref_template="#/components/schemas/{model}"
            )
            schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it
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


def json_body(model: type[BaseModel], **examples: Any) -> dict[str, Any]:
    """The content of a request that the handler reads as ``model``; ``example`` or ``examples`` as OpenAPI has them."""
    if model not in _bodies:
        _bodies.append(model)
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, **examples}}


def image_bodies(*, explained: bool = False) -> dict[str, Any]:
    """The content of a request with images in a form, or of one image as it is; ``explained`` has one in a form too."""
    files = {"type": "array", "minItems": 1, "items": _FILE} | ({"maxItems": 1} if explained else {})
    others = _OF_CLASSES if explained else _OF_EXPLANATIONS
    parameters = {name: schema for name, schema in _PARAMETERS.items() if name not in others}
    properties = {"files": files, **parameters}
    return {
        "multipart/form-data": {"schema": {"type": "object", "required": ["files"], "properties": properties}},
        "image/*": {"schema": _FILE},
        "application/octet-stream": {"schema": _FILE},
    }


def with_body(content: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
    """The ``openapi_extra`` of a route that reads ``content`` itself."""
    return {"requestBody": {"required": True, "content": content}, "parameters": list(parameters)}


def query(name: str, description: str) -> dict[str, Any]:
    """A parameter in the URL."""
    return {"name": name, "in": "query", "schema": _PARAMETERS[name], "description": description}


def accept_language() -> dict[str, Any]:
    """The header by which a client chooses the language of labels."""
    return {
        "name": "Accept-Language",
        "in": "header",
        "schema": {"type": "string"},
        "example": "zh-CN, en;q=0.8",
        "description": (
            f"The language of labels: {' or '.join(LANGUAGES)}, if the model's classes have names in it, as those of "
            "ImageNet and CIFAR-10 have; else they are the model's own. `Content-Language` says which it is."
        ),
    }


def named_answer() -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route whose answer has labels in the client's language."""
    language = {
        "schema": {"type": "string", "enum": list(LANGUAGES)},
        "description": "Of the labels, if not their own.",
    }
    return {200: {"headers": {"Content-Language": language, "Vary": {"schema": {"type": "string"}}}}}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that fails with these statuses."""
    return {
        status: {"model": ErrorResponse, "description": HTTPStatus(status).phrase}
        | ({"headers": _RETRY_AFTER} if status == HTTPStatus.SERVICE_UNAVAILABLE else {})
        for status in statuses
    }

"""What the OpenAPI document says beyond the types: request bodies in several forms, examples, failures."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .schemas import MAX_TOP_K, ErrorResponse

DESCRIPTION = """\
GhostNet image classifiers. `/v1` is this server's own API; `/v2` is the Open Inference Protocol, which gRPC speaks too;
`/image-classification` and `/{name}/prediction` are for clients of PaddleX and Paddle Serving.
"""

_PATHS = frozenset({"/docs", "/docs/oauth2-redirect", "/openapi.json"})
_FILES = "/static-offline-docs/"

SMALL_GIF = "R0lGODlhAQABAIAAAP8AAP///yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="
"""A red pixel."""

_TEXT = {"type": "string", "maxLength": 200}

QUERY: list[dict[str, Any]] = [
    {
        "name": "top_k",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": 5},
        "description": "Classes for each image. Here, in a form's field, or in the JSON body.",
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
                    "top_k": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": 5},
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


def is_part(path: str) -> bool:
    """Whether the document, or what shows it, is at this URL path."""
    return path in _PATHS or path.startswith(_FILES)


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

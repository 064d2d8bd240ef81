"""The web page at ``/``: files of the package's folder ``page``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from .page_files import DATA_FILES, PAGE, index_page

_HEADERS = {
    # Everything comes from this server; WebAssembly is the browser's own inference.
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
        "img-src 'self' blob: data:; media-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
        "connect-src 'self' blob: data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    # With these two, browsers let WebAssembly use threads.
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "referrer-policy": "no-referrer",
}


class PageFiles(StaticFiles):
    """Serves the folder; whatever is not in it is not found, with any method."""

    def __init__(self) -> None:
        super().__init__(directory=PAGE, html=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await super().__call__(scope, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(404)
        if path in (".", "index.html"):
            return Response(index_page(), media_type="text/html", headers=_HEADERS)
        if path in DATA_FILES:
            data = DATA_FILES[path]
            return self.file_response(data, data.stat(), scope)
        return await super().get_response(path, scope)

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(_HEADERS)
        return response


def page_paths() -> frozenset[str]:
    """The URL paths of all files of the page."""
    found = {"/", *(f"/{path}" for path in DATA_FILES)}
    for parent, _, names in os.walk(PAGE):
        found |= {"/" + Path(parent, name).relative_to(PAGE).as_posix() for name in names}
    return frozenset(found)

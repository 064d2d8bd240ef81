"""Files of models on their way to clients: each is in memory once, however many take it, and however slowly."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..bundle.folder import Bundle
from .answers import send_parts
from .memory import Memory


@dataclass
class _Shared:
    content: bytes
    held: ExitStack
    users: int = 0


class SharedFiles:
    """The files that are being sent. Used on the event loop alone.

    Args:
        memory: what they count against.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._shared: dict[str, _Shared] = {}
        self._reading = asyncio.Lock()

    async def respond(self, bundle: Bundle, path: str, headers: Mapping[str, str], media_type: str) -> Response:
        """Return an answer with the verified content of the file ``path`` of the manifest; it has to be sent.

        Raises:
            BundleError: the file is not as the manifest says.
            RequestError: the server's budget is used up.
        """
        record = bundle.manifest.files[path]
        async with self._reading:
            shared = self._shared.get(record.sha256)
            if shared is None:
                with ExitStack() as stack:
                    stack.enter_context(self._memory.held(record.size))
                    content = await asyncio.to_thread(bundle.read, path)
                    shared = self._shared[record.sha256] = _Shared(content, stack.pop_all())
            shared.users += 1
        return _FileResponse(self, record.sha256, shared, headers, media_type)

    def give_back(self, sha256: str, shared: _Shared) -> None:
        shared.users -= 1
        if not shared.users:
            del self._shared[sha256]
            shared.held.close()


class _FileResponse(Response):
    def __init__(
        self, files: SharedFiles, sha256: str, shared: _Shared, headers: Mapping[str, str], media_type: str
    ) -> None:
        super().__init__(headers={**headers, "content-length": str(len(shared.content))}, media_type=media_type)
        self._files, self._sha256, self._shared = files, sha256, shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send_parts(self, self._shared.content, send)
        finally:
            self._files.give_back(self._sha256, self._shared)

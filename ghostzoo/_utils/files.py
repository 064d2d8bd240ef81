"""Files appear whole or not at all."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_ABANDONED_SECONDS = 3600
"""A scratch file that nobody has written to for so long is a killed process's; writing one takes seconds."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` in place of ``path``, as ``replacing`` does; raises as it does."""
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file with a temporary name beside ``path``, which is renamed at the end: an older one is replaced
    only then, and not at all if an exception ends the block.

    What a killed process left of an earlier try is removed, once it is an hour old.

    Raises:
        OSError: the file cannot be written; what was there before is still there.
    """
    import secrets

    scratch = path.with_name(f".{path.name}-{secrets.token_hex(6)}.tmp")
    try:
        with scratch.open("xb") as file:
            yield file
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    _remove_abandoned(path)


def _remove_abandoned(path: Path) -> None:
    name = re.compile(rf"\.{re.escape(path.name)}-[0-9a-f]{{12}}\.tmp")
    with suppress(OSError):  # a folder that cannot be listed, or a file that another process removes
        for other in path.parent.iterdir():
            if name.fullmatch(other.name) and time.time() - other.lstat().st_mtime > _ABANDONED_SECONDS:
                other.unlink()

"""Files appear whole or not at all, under names that every system can have."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_ABANDONED_SECONDS = 3600
"""A scratch file that nobody has written to for so long is a killed process's; writing one takes seconds."""


_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_ATTEMPTS, _PAUSE_SECONDS = 10, 0.1
_OPEN_FILES_STAY = sys.platform == "win32"


def is_portable(name: str) -> bool:
    """Whether Windows, too, can have a file or folder of this name."""
    return not (_RESERVED.fullmatch(name) or name.endswith((".", " ")) or set('<>:"|?*\\') & set(name))


def move(source: Path, target: Path, *, over: bool = False) -> None:
    """Rename a file or folder, ``over`` an older file or not; on Windows wait a second for whoever has it open.

    Raises:
        OSError: it cannot be renamed.
    """
    for attempt in range(_ATTEMPTS):
        try:
            source.replace(target) if over else source.rename(target)
            return
        except PermissionError:  # such as a virus scanner's; only Windows tells so
            if not _OPEN_FILES_STAY or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_PAUSE_SECONDS)


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
        move(scratch, path, over=True)
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

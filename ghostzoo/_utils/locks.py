"""Locks between processes; the system drops one whose process dies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


class LockHeldError(Exception):
    """Another process holds the lock."""


def acquire(path: Path, seconds: float | None = None) -> BaseFileLock:
    """Lock the file ``path``, which is made if need be, and return the lock, to be released.

    Args:
        path: in a folder that exists.
        seconds: how long to wait for another process that holds it; ``None`` waits for ever.

    Raises:
        LockHeldError: another process still holds it.
        OSError: nothing can be locked there.
    """
    from filelock import FileLock, Timeout  # opening a model that is there should not wait for it

    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if seconds is None else seconds)
    except Timeout as error:  # an OSError too
        raise LockHeldError(str(path)) from error
    except NotImplementedError as error:
        raise OSError(str(error)) from error
    return lock

"""Locks between processes, and what a fork must not do with what was opened before it."""

from __future__ import annotations

import ctypes

# logging holds its own lock over a fork. What is registered first is held last: a thread that opens an engine may log.
import logging  # noqa: F401
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from filelock import BaseFileLock


opening = threading.RLock()
"""Of what one thread at a time does when an engine is opened.

It is held over a fork, so that the child's copy is not left locked by a thread that stayed behind, and nothing is
forked half-way. It is one for all of them, so that no two wait for each other.
"""
never_freed_in_forks: WeakSet[Any] = WeakSet()
"""Freeing these in a fork would wait for threads that do not exist there."""


class LockHeldError(Exception):
    """Another process holds the lock."""


def acquire(path: Path, seconds: float | None = None) -> BaseFileLock:
    """Lock the file ``path``, which is made if need be, and return the lock, to be released.

    The system drops it when its process dies.

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


_keep = ctypes.pythonapi.Py_IncRef
"""Looked up here: in a fork, what another thread was loading or importing stays half-loaded."""


def _keep_inherited() -> None:
    for item in list(never_freed_in_forks):
        _keep(ctypes.py_object(item))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=opening.acquire, after_in_parent=opening.release, after_in_child=opening.release)
    os.register_at_fork(after_in_child=_keep_inherited)

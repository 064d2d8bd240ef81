"""Engines and forks: what is opened in one process cannot run, nor be freed, in a fork of it."""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakSet

opening = threading.RLock()
"""Of what one thread at a time does when an engine is opened.

It is held over a fork, so that the child's copy is not left locked by a thread that stayed behind, and nothing is
forked half-way. It is one for all of them, so that no two wait for each other.
"""

open_engines: WeakSet[Any] = WeakSet()
first_processes: dict[str, int] = {}
"""Engine -> the process that first opened a model with it: this one, or an ancestor by forks."""


def _keep_inherited_engines() -> None:
    """Never free the parent's engines: that would wait for threads that do not exist in a fork."""
    import ctypes

    for engine in list(open_engines):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=opening.acquire, after_in_parent=opening.release, after_in_child=opening.release)
    os.register_at_fork(after_in_child=_keep_inherited_engines)

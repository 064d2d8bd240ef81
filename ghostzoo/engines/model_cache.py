"""Models as a library prepares them for this machine's CPU, kept in the cache folder so that they load faster.

What is prepared on one CPU may be wrong on another one, so the key of each file tells the CPU too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .._utils.cache import cache_folder, cache_key, find_cached, locked, write_cached
from .._utils.hardware import cpu_facts

_log = logging.getLogger("ghostzoo")
_T = TypeVar("_T")


def writable_folder(kind: str) -> Path | None:
    """Return the folder ``kind`` in the cache folder, created if needed, or ``None`` if it is not writable."""
    folder = cache_folder() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def prepare(
    kind: str,
    facts: tuple[object, ...],
    *,
    build: Callable[[str], tuple[_T, bytes]],
    restore: Callable[[Path], _T],
    plain: Callable[[], _T],
) -> _T:
    """Return a model restored from the cache, or built and kept there, or opened plainly where that cannot be done.

    Args:
        kind: the folder in the cache folder.
        facts: everything besides the CPU that the prepared model depends on: hash of the graph, versions, options.
        build: opens the model, and returns it with what to keep of it in a file of the name that it is given.
        restore: opens what was kept, from the file that begins with it.
        plain: opens the model without the cache; what this raises is what the caller sees.
    """
    if writable_folder(kind) is None:
        return plain()
    key = cache_key(*cpu_facts(), *facts)
    name = f"{kind}/{key}"

    def find() -> list[_T]:
        path = find_cached(name)
        return [] if path is None else [restore(path)]

    try:
        ready = find()
        if ready:
            return ready[0]
        with locked(name):
            ready = find()  # another process may have built it in the meantime
            if ready:
                return ready[0]
            model, content = build(key)
            write_cached(name, content)
        return model
    except Exception as error:  # the libraries' own classes; a fault of the model or an option comes up again below
        _log.info("No prepared model is used: %s", error)
        return plain()

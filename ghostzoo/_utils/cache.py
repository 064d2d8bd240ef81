"""ghostzoo's cache folder: what was costly to make on this machine is made once, by one process at a time.

Nothing in the cache is needed: where the folder cannot be written, everything is made anew each time.

A file is its content and after it a checksum, so that a library can map the content as if it were the file.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from .files import write_atomically
from .hardware import cpu_facts
from .locks import acquire

_T = TypeVar("_T")

CACHE_VARIABLE = "GHOSTZOO_CACHE"
"""Environment variable that names the cache folder."""
NO_CACHE = Path(os.devnull) / "ghostzoo"
"""A path that no system lets anybody make."""

_log = logging.getLogger("ghostzoo")
CHECKSUM_BYTES = 4
_LAYOUT = 2
"""Of the files; keys tell it, so that files of another layout are never read."""


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet: ``GHOSTZOO_CACHE``, or the platform's place for caches.

    For a user without a home folder it is ``NO_CACHE``, where nothing can be read or written.
    """
    named = os.environ.get(CACHE_VARIABLE)
    try:
        if named:
            return Path(named).expanduser()
        from platformdirs import user_cache_path

        folder = user_cache_path("ghostzoo", appauthor=False)
    except RuntimeError:  # neither HOME nor an entry among the system's users
        return NO_CACHE
    return folder if folder.is_absolute() else NO_CACHE  # older versions leave the ~ where it is


def cache_key(*facts: object) -> str:
    """Return a file name for ``facts``: equal facts give equal names, on any run of Python."""
    return hashlib.sha256("\0".join(map(repr, (_LAYOUT, *facts))).encode()).hexdigest()[:32]


def read_cached(name: str) -> bytes | None:
    """Return the content of the cache file ``name``, or ``None`` if there is no such file or it is damaged."""
    path = find_cached(name)
    try:
        return None if path is None else path.read_bytes()[:-CHECKSUM_BYTES]
    except OSError:
        return None


def find_cached(name: str) -> Path | None:
    """Return the path of the cache file ``name``, or ``None`` if there is no such file or it is damaged."""
    path = _path(name)
    try:
        # Mapped: a copy of a model's size would take longer than its checksum.
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as whole,
            whole[:-CHECKSUM_BYTES] as content,
        ):
            is_whole = _checksum(content) == bytes(mapped[-CHECKSUM_BYTES:])
    except OSError:
        return None
    except ValueError:  # an empty file
        is_whole = False
    if not is_whole:
        _log.warning("The cache file %s is damaged and will be rebuilt.", path)
        return None
    return path


def write_cached(name: str, content: bytes) -> None:
    """Write the cache file ``name``; a folder that cannot be written is logged and no error."""
    try:
        path = _path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content + _checksum(content))
    except OSError as error:
        _log.info("%s cannot be written (%s); set %s to a folder that can.", _path(name), error, CACHE_VARIABLE)


def cached(name: str, make: Callable[[], bytes]) -> bytes:
    """Return the cache file ``name``, made with ``make`` if need be; of several processes one makes it, others wait.

    Args:
        name: ``<kind>/<key>``; the key has to tell everything that the content depends on.
        make: returns the content; what it raises reaches the caller, and nothing is kept.
    """
    found = read_cached(name)
    if found is not None:
        return found
    with locked(name):
        found = read_cached(name)
        if found is None:
            found = make()
            write_cached(name, found)
        return found


def writable_folder(kind: str) -> Path | None:
    """Return the folder ``kind`` in the cache folder, created if needed, or ``None`` if it is not writable."""
    folder = cache_folder() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def place_in_cache(name: str) -> Path | None:
    """Return a path for a file of another layout, in a folder that exists; ``None`` where nothing can be written."""
    path = _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.info("%s cannot be written (%s); set %s to a folder that can.", path, error, CACHE_VARIABLE)
        return None
    return path if os.access(path.parent, os.W_OK) else None


@contextmanager
def locked(name: str) -> Iterator[bool]:
    """Keep other processes from what bears the same ``name``; yield whether that was possible."""
    path = _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = acquire(path.with_name(f"{path.name}.lock"))
    except OSError as error:
        _log.info("%s cannot be locked (%s); set %s to a folder that can.", path, error, CACHE_VARIABLE)
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def prepare(
    kind: str,
    facts: tuple[object, ...],
    *,
    build: Callable[[str], tuple[_T, bytes]],
    restore: Callable[[Path], _T],
    plain: Callable[[], _T],
) -> _T:
    """Return a model as a library prepares it for this machine's CPU: restored from the cache, built and kept there, or
    opened plainly where that cannot be done.

    What is prepared on one CPU may be wrong on another one, so the key of each file tells the CPU too.

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


def _checksum(content: bytes | memoryview) -> bytes:
    """CRC-32: it finds damage, which is all there is to find in the user's own folder, in a quarter of SHA-256's time.

    A model is opened from here because that is faster; a slow check would take the gain away.
    """
    return zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big")


def _path(name: str) -> Path:
    if not re.fullmatch(r"[a-z0-9]+/[A-Za-z0-9._-]+", name) or "/." in name:
        raise ValueError(f"{name!r} is not the name of a cache file")
    return cache_folder() / name

"""Files and folders appear whole or not at all, under names that every system can have.

What a killed writer left is put right by whoever comes next. A writer of a folder fills ``.NAME-<12 hexadecimal
digits>.tmp`` beside the folder NAME and holds the lock in it while it lives. Two renames replace a folder: the old
one into the scratch folder, the new one out of it. No call of Python's exchanges two folders on all systems, so a
writer that is killed between them leaves none, and the old one in the scratch folder: from there it is put back.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .locks import LockHeldError, acquire

if TYPE_CHECKING:
    from filelock import BaseFileLock

_ABANDONED_SECONDS = 3600
"""A scratch file that nobody has written to for so long is a killed process's; writing one takes seconds."""
_YOUNG_SECONDS = 10.0
"""A scratch folder that is younger may be one whose writer is about to lock it."""
_LOCK, _NEW, _OLD = "lock", "new", "old"
_SCRATCH = re.compile(r"\.(.+)-[0-9a-f]{12}\.tmp", re.DOTALL)
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_ATTEMPTS, _PAUSE_SECONDS = 10, 0.1
_OPEN_FILES_STAY = sys.platform == "win32"

_log = logging.getLogger("ghostzoo")


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


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """Yield the path of a folder to make; at the end it becomes ``out``, in the place of what is there.

    If the block raises, ``out`` stays as it was.

    Raises:
        OSError: nothing can be written there; ``out`` is as it was.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch, lock = _scratch_beside(out)
    try:
        yield scratch / _NEW
        if os.path.lexists(out):
            move(out, scratch / _OLD)
        move(scratch / _NEW, out)
    finally:
        _settle(scratch, out, lock)


def recover(parent: Path, name: str | None = None) -> None:
    """Put back and clear away what killed writers left in ``parent``; leave alone what living ones are at.

    Args:
        parent: the folder; one that cannot be read or written stays as it is.
        name: of the one folder in it that this is about; all of them by default.
    """
    try:
        with os.scandir(parent) as entries:
            matches = [match for entry in entries if (match := _SCRATCH.fullmatch(entry.name))]
    except (OSError, ValueError):
        return
    found = [(parent / match[0], match[1]) for match in matches if name in (None, match[1])]
    if not found:
        return
    for folder, out in found:
        if not _is_own(folder) or _is_young(folder):
            continue
        try:
            if not (folder / _LOCK).is_file():
                folder.rmdir()  # its writer has not come to lock it
                continue
            lock = acquire(folder / _LOCK, seconds=0)
        except (LockHeldError, OSError):
            continue
        _settle(folder, parent / out, lock)


def restore(folder: Path) -> None:
    """Put ``folder`` back if it is not there because a writer was killed while it replaced it."""
    if not os.path.lexists(folder):
        recover(folder.parent, folder.name)


def _scratch_beside(out: Path) -> tuple[Path, BaseFileLock | None]:
    import secrets  # opening a model that is there should not wait for it

    for _ in range(_ATTEMPTS):
        scratch = out.with_name(f".{out.name}-{secrets.token_hex(6)}.tmp")
        scratch.mkdir(mode=0o700)
        try:
            lock = acquire(scratch / _LOCK, seconds=0)
        except (LockHeldError, FileNotFoundError):  # another process took it for a killed one's
            continue
        except OSError as error:
            _log.info("%s cannot be locked (%s), so nobody clears it away if this process is killed.", scratch, error)
            return scratch, None
        if (scratch / _LOCK).exists():
            return scratch, lock
        lock.release()
    raise TimeoutError("other processes keep clearing away its scratch folders")


def _settle(scratch: Path, out: Path, lock: BaseFileLock | None) -> None:
    """Put back what was moved aside if nothing took its place, and remove the scratch folder."""
    old = scratch / _OLD
    try:
        if os.path.lexists(old) and not os.path.lexists(out):
            move(old, out)
            _log.info("%s is back as it was before it was to be replaced.", out)
    except OSError as error:
        _log.warning("%s cannot be put back (%s); it is in %s.", out, error, old)
        if lock is not None:
            lock.release()
        return
    shutil.rmtree(scratch, ignore_errors=True)
    if lock is not None:
        lock.release()
    shutil.rmtree(scratch, ignore_errors=True)  # Windows removes no file that is open


def _is_young(folder: Path) -> bool:
    """Whether a writer may have made the folder just now; one that has moved something aside has its lock for long."""
    try:
        return not os.path.lexists(folder / _OLD) and time.time() - folder.lstat().st_mtime < _YOUNG_SECONDS
    except OSError:
        return True


def _is_own(folder: Path) -> bool:
    """Whether this user made the folder: in a place where all may write, a strange one could hold traps."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and (sys.platform == "win32" or found.st_uid == os.geteuid())

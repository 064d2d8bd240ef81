"""Folders on this machine and in storages that fsspec knows, and what is said when one fails."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from .._utils.files import write_atomically
from .._utils.http import reason_of
from .._utils.locks import LockHeldError, acquire
from .._utils.urls import without_secrets
from ..errors import ImageError, InputError

_EXTRAS = {"s3fs": "'ghostzoo[s3]'"}
"""Library of a storage -> the extra that has it."""


def open_storage(place: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ModuleNotFoundError:
        raise InputError(
            f"{told(place)} needs fsspec, which is not installed; pip install 'ghostzoo[batch]'."
        ) from None
    try:
        fs, path = fsspec.core.url_to_fs(place)
    except ImportError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        name = getattr(cause, "name", None) or str(error)
        wanted = _EXTRAS.get(name, name)
        raise InputError(f"{told(place)} needs {name}, which is not installed; pip install {wanted}.") from error
    except Exception as error:
        raise InputError(f"{told(place)} cannot be opened: {reason(error)}.") from error
    return fs, path


@contextmanager
def errors_of_reading(place: str) -> Iterator[None]:
    """Turn a storage's errors into a sentence about the source."""
    try:
        yield
    except (InputError, ImageError):
        raise
    except Exception as error:
        what = "is damaged" if isinstance(error, tarfile.TarError) else "cannot be read"
        raise InputError(f"{told(place)} {what}: {reason(error)}; check the name and your credentials.") from error


@contextmanager
def errors_of_writing(place: str) -> Iterator[None]:
    """Turn a storage's errors into a sentence about the results."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{place} cannot be written: {reason(error)}; what is finished stays, and resume goes on."
        ) from error


def reason(error: BaseException) -> str:
    return " ".join(reason_of(error).split()).rstrip(".")


def told(sources: Any) -> str:
    several = sources if isinstance(sources, list | tuple) else [sources]
    return ", ".join(
        without_secrets(fspath(each)) if isinstance(each, str | PathLike) else "a table" for each in several
    )


class LocalFolder:
    """A folder on this machine."""

    def __init__(self, place: str) -> None:
        self.path = Path(place.removeprefix("file://"))
        with errors_of_writing(place):
            self.path.mkdir(parents=True, exist_ok=True)

    def lock(self, place: str) -> Any:
        try:
            return acquire(self.path / ".lock", 0)
        except LockHeldError:
            raise InputError(f"Another process writes to {place}; wait for it, or take another folder.") from None
        except OSError:
            return None  # a file system without locks

    def names(self) -> list[str]:
        return [path.name for path in self.path.iterdir() if not path.name.startswith(".")]

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        write_atomically(self.path / name, data)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


class RemoteFolder:
    """A folder in a storage, where an object appears whole when it has been sent."""

    def __init__(self, place: str) -> None:
        self._fs, self._root = open_storage(place.rstrip("/"))
        self._fs.invalidate_cache()

    def lock(self, place: str) -> None:
        return None

    def names(self) -> list[str]:
        with suppress(FileNotFoundError):
            return [posixpath.basename(path) for path in self._fs.ls(self._root, detail=False, refresh=True)]
        return []

    def read(self, name: str) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return data

    def write(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{name}", data)

    def remove(self, name: str) -> None:
        self._fs.rm_file(f"{self._root}/{name}")

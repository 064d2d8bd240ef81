"""Storages that fsspec knows, and what is said when one fails."""

from __future__ import annotations

import tarfile
from os import PathLike, fspath
from typing import Any

from .._utils.http import reason_of
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


class told_of:  # noqa: N801  # reads as what it is: a context
    """Turns a storage's errors into a sentence about the source."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, InputError | ImageError):
            what = "is damaged" if isinstance(error, tarfile.TarError) else "cannot be read"
            raise InputError(
                f"{told(self.place)} {what}: {reason(error)}; check the name and your credentials."
            ) from error


def reason(error: BaseException) -> str:
    return " ".join(reason_of(error).split()).rstrip(".")


def told(sources: Any) -> str:
    several = sources if isinstance(sources, list | tuple) else [sources]
    return ", ".join(
        without_secrets(fspath(each)) if isinstance(each, str | PathLike) else "a table" for each in several
    )

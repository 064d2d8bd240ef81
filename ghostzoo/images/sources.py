"""Path, URL, bytes or file object -> the bytes of an encoded image, within limits."""

from __future__ import annotations

import os
import re
import stat
from os import PathLike
from pathlib import Path
from typing import IO, Any

from .._utils.urls import is_url, why_no_path, without_secrets
from ..errors import ImageError, InputError
from .options import ImageLimits, describe

_OPEN_FILE = re.compile(r"/dev/stdin|/(dev|proc/self)/fd/\d+")
"""Files that this process has open already, as shells name them: ``<(curl ...)``."""


def read_encoded(source: Any, limits: ImageLimits) -> bytes:
    """Return the bytes of an encoded image.

    Raises:
        ImageError: they cannot be read, or are more than ``limits`` allow.
        InputError: ``source`` is none of these kinds.
    """
    if is_url(source):
        from .._utils.http import DownloadError, download_bytes

        try:
            data = download_bytes(
                source,
                max_bytes=limits.max_bytes,
                timeout=limits.url_timeout,
                max_redirects=limits.max_redirects,
            )
        except DownloadError as error:
            name = {"max_bytes": "max_bytes", "timeout": "url_timeout"}.get(error.limit or "")
            raise ImageError(describe(source), f"{error}{limits.name(name) if name else ''}") from error
        return _bounded(source, data, len(data), limits)
    if isinstance(source, str | PathLike):
        return _read_path(source, limits)
    if isinstance(source, bytes | bytearray | memoryview):
        size = memoryview(source).nbytes
        return _bounded(source, bytes(source) if size <= limits.max_bytes else b"", size, limits)
    if hasattr(source, "read"):
        return _read_file(source, limits)
    raise InputError(
        f"{type(source).__name__} is not an image; pass a path, a URL, bytes, a binary file, a PIL image or a uint8 "
        "array."
    )


def _read_path(path: str | PathLike[str], limits: ImageLimits) -> bytes:
    no_path = why_no_path(os.fsdecode(path), "the path of a file, or an http or https URL")
    if no_path is not None:
        raise ImageError(without_secrets(os.fsdecode(path)) or "''", f"it is {no_path}")
    try:
        path = Path(os.fsdecode(path))
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(describe(path), "it is a folder; pass it to predict() for all images in it")
        if not stat.S_ISREG(mode) and not _OPEN_FILE.fullmatch(str(path)):  # a pipe would wait for its other end
            raise ImageError(describe(path), "it is not a regular file")
        with path.open("rb") as file:
            return _read_file(file, limits, describe(path))
    except FileNotFoundError as error:
        raise ImageError(describe(path), "there is no such file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(describe(path), f"it cannot be opened ({reason})") from error


def _read_file(file: IO[bytes], limits: ImageLimits, name: str | None = None) -> bytes:
    source = name or file
    data = bytearray()
    while len(data) <= limits.max_bytes:  # a raw file or a socket may give less than it was asked for
        try:
            part = file.read(limits.max_bytes + 1 - len(data))
        except Exception as error:  # a file object of the caller's own may raise anything
            raise ImageError(describe(source), f"it cannot be read ({error})") from error
        if not isinstance(part, bytes | bytearray | memoryview):
            raise ImageError(describe(source), "it returns no bytes; open it with mode 'rb', and blocking")
        if not len(part):
            break
        data += part
    return _bounded(source, bytes(data), len(data), limits)


def _bounded(source: Any, data: bytes, size: int, limits: ImageLimits) -> bytes:
    if size > limits.max_bytes:
        raise ImageError(
            describe(source),
            f"it has more than the {limits.max_bytes} bytes that are read{limits.name('max_bytes')}; make it smaller",
        )
    if not size:
        raise ImageError(describe(source), "it is empty")
    return data

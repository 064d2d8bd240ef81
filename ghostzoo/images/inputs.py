"""What a caller passes as images -> single images, lazily and in order."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .._utils.urls import is_url
from ..errors import InputError
from .pil import is_pil_image

IMAGE_SUFFIXES = frozenset(
    {
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pam",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)
"""Which files of a folder are taken for images, in lower case. A file that is named itself may have any suffix."""


_FIXED = (str, PathLike, bytes, np.ndarray)
"""Kinds of images that several threads may read at the same time."""


def is_single(source: Any) -> bool:
    """Whether ``source`` is one image, rather than a folder, a pattern, or an iterable of images."""
    if isinstance(source, str | PathLike):
        return is_url(source) or not (os.path.isdir(source) or _is_pattern(source))  # noqa: PTH112
    if isinstance(source, np.ndarray):
        return source.ndim == 0 or (source.ndim < 4 and source.dtype.kind not in "OU")  # an array of paths is several
    return isinstance(source, bytes | bytearray | memoryview) or is_pil_image(source) or hasattr(source, "read")


def count_at_hand(images: Any) -> float:
    """How many images there are already, so that several threads may read them at the same time.

    Images that change as they are read (files, PIL images) and iterators, which may make each image when it is asked
    for, count as none. How many a folder or a pattern has is not known before it is read: infinitely many.
    """
    if isinstance(images, str | PathLike):
        return 1 if is_single(images) else math.inf
    if isinstance(images, np.ndarray):
        return 1 if is_single(images) else len(images)
    if isinstance(images, list | tuple):
        kinds = {type(image) for image in images}
        return len(images) if all(issubclass(kind, _FIXED) for kind in kinds) else 0
    return 0


def expand(images: Any, on_skip: Callable[[Path], object] | None = None) -> Iterator[Any]:
    """Yield single images, each when it is asked for.

    Args:
        images: one image, a folder (all image files in it and below, in the order of their names), a glob pattern such
            as ``photos/**/*.jpg``, an array (N, H, W, 3), or an iterable of all these. A file or folder whose name
            happens to look like a pattern is that file or folder.
        on_skip: called with whatever in a folder is passed over: a file without an image's suffix, a hidden file or
            folder, a link to a folder (which may lead round in a circle).

    Raises:
        InputError: a folder or pattern without images, or something that is neither image nor iterable. Raised when
            it is its turn.
    """
    if is_single(images):
        yield images
    elif isinstance(images, str | PathLike):
        yield from _from_place(images, on_skip)
    elif isinstance(images, Iterable) and not isinstance(images, dict):
        for image in images:
            yield from expand(image, on_skip)
    else:
        raise InputError(
            f"{type(images).__name__} is neither an image nor several; pass a path, a URL, bytes, a binary file, "
            "a PIL image, a uint8 array, a folder, a pattern, or an iterable of these."
        )


def _is_pattern(source: str | PathLike[str]) -> bool:
    return glob.has_magic(os.fsdecode(source)) and not os.path.lexists(source)


def _from_place(place: str | PathLike[str], on_skip: Callable[[Path], object] | None) -> Iterator[Any]:
    found = False
    for image in walk(Path(os.fsdecode(place)), on_skip) if os.path.isdir(place) else _matches(place, on_skip):  # noqa: PTH112
        found = True
        yield image
    if not found:
        raise InputError(f"There are no images in {os.fsdecode(place)}; check the path or pattern.")


def _matches(pattern: str | PathLike[str], on_skip: Callable[[Path], object] | None) -> Iterator[Path]:
    walked: set[Path] = set()  # '**' matches a folder and, after it, all that is in it
    for name in sorted(glob.iglob(_literal_start(os.fsdecode(pattern)), recursive=True)):  # noqa: PTH207  # absolute too
        path = Path(name)
        if not walked.isdisjoint(path.parents) or not os.path.lexists(path):  # glob takes 'missing/**/' for a match
            continue
        if path.is_dir():
            walked.add(path)
            yield from walk(path, on_skip)
        else:
            yield path


def _literal_start(pattern: str) -> str:
    """Escape the folders at the beginning that exist under names that look like patterns."""
    start, rest = Path(pattern), []
    while glob.has_magic(str(start)) and not os.path.lexists(start):
        rest.append(start.name)
        start = start.parent
    return str(Path(glob.escape(str(start)), *reversed(rest)))


def walk(folder: Path, on_skip: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Yield the image files in ``folder`` and below, in the order of their names; ``on_skip`` is that of ``expand``.

    Raises:
        InputError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise InputError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error

    for parent, folders, names in os.walk(folder, onerror=fail):
        passed_over = [name for name in folders if name.startswith(".") or Path(parent, name).is_symlink()]
        folders[:] = sorted(set(folders) - set(passed_over))
        for name in sorted(passed_over + names):
            path = Path(parent, name)
            if path.suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".") and name not in passed_over:
                yield path
            elif on_skip is not None:
                on_skip(path)

"""What a caller passes as images -> single images, lazily and in order."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .images import is_pil_image, is_url

IMAGE_SUFFIXES = frozenset(
    {
        ".avif",
        ".bmp",
        ".gif",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
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


def is_single(source: Any) -> bool:
    """Whether ``source`` is one image, rather than a folder, a pattern, or an iterable of images."""
    if isinstance(source, str | PathLike):
        return is_url(source) or not (os.path.isdir(source) or _is_pattern(source))  # noqa: PTH112
    if isinstance(source, np.ndarray):
        return source.ndim < 4
    return isinstance(source, bytes | bytearray | memoryview) or is_pil_image(source) or hasattr(source, "read")


def expand(images: Any, on_skip: Callable[[Path], object] | None = None) -> Iterator[Any]:
    """Yield single images, each when it is asked for.

    Args:
        images: one image, a folder (all image files in it and below, in the order of their names), a glob pattern such
            as ``photos/**/*.jpg``, an array (N, H, W, 3), or an iterable of all these. A file whose name happens to
            look like a pattern is that file.
        on_skip: called with each file of a folder that is passed over because its suffix is not an image's.

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
    return glob.has_magic(os.fspath(source)) and not os.path.lexists(source)


def _from_place(place: str | PathLike[str], on_skip: Callable[[Path], object] | None) -> Iterator[Any]:
    found = False
    if os.path.isdir(place):  # noqa: PTH112
        for path in _walk(Path(place), on_skip):
            found = True
            yield path
    else:
        for name in sorted(glob.iglob(os.fspath(place), recursive=True)):  # noqa: PTH207  # absolute patterns too
            path = Path(name)
            for image in _walk(path, on_skip) if path.is_dir() else [path]:
                found = True
                yield image
    if not found:
        raise InputError(f"There are no images in {os.fspath(place)}; check the path or pattern.")


def _walk(folder: Path, on_skip: Callable[[Path], object] | None) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise InputError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield path
            elif on_skip is not None:
                on_skip(path)

"""What a caller passes as images -> single images, lazily and in order."""

from __future__ import annotations

import glob
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .._utils.urls import is_url, scheme_of
from ..errors import InputError

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


def is_pil_image(source: Any) -> bool:
    """Whether this is a PIL image; PIL is not imported to find out."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(source, pil.Image)


def is_single(source: Any) -> bool:
    """Whether ``source`` is one image, rather than a folder, a pattern, or an iterable of images."""
    if isinstance(source, str | PathLike):
        return scheme_of(source) is not None or not (os.path.isdir(source) or _is_pattern(source))  # noqa: PTH112
    if isinstance(source, np.ndarray):
        return source.ndim == 0 or (source.ndim < 4 and source.dtype.kind not in "OU")  # an array of paths is several
    return isinstance(source, bytes | bytearray | memoryview) or is_pil_image(source) or hasattr(source, "read")


def check_single(source: Any) -> None:
    """Check that ``source`` is one image.

    Raises:
        InputError: it is several, or none.
    """
    if is_single(source):
        return
    if not isinstance(source, str | PathLike | Iterable) or isinstance(source, dict):
        raise _no_image(source)
    what = f"{os.fsdecode(source)} is" if isinstance(source, str | PathLike) else f"A {type(source).__name__} holds"
    raise InputError(f"{what} several images, and a call takes one; use predict() for several.")


def distinct(images: Iterable[Any]) -> Iterator[Any]:
    """Yield each file and URL of ``images`` once, under the name that comes first; links are not followed."""
    seen: set[Any] = set()
    for image in images:
        is_file = isinstance(image, str | PathLike) and not is_url(image)
        key = os.path.normcase(os.path.abspath(image)) if is_file else image if is_url(image) else id(image)  # noqa: PTH100
        if key not in seen:
            seen.add(key)
            yield image


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
        raise _no_image(images)


def _no_image(source: Any) -> InputError:
    return InputError(
        f"{type(source).__name__} is neither an image nor several; pass a path, a URL, bytes, a binary file, "
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


def walk(
    folder: Path, on_skip: Callable[[Path], object] | None = None, *, follow_links: bool = False
) -> Iterator[Path]:
    """Yield the image files in ``folder`` and below, in the order of their names.

    Args:
        folder: where to look.
        on_skip: that of ``expand``.
        follow_links: descend into linked folders too.

    Raises:
        InputError: a folder cannot be read, or a followed link forms a loop.
    """

    def fail(error: OSError) -> None:
        raise InputError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error

    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=follow_links):
        links = {name for name in folders if Path(parent, name).is_symlink()}
        passed_over = [name for name in folders if name.startswith(".") or (name in links and not follow_links)]
        for name in links.difference(passed_over):
            _check_link(folder, Path(parent, name))
        folders[:] = sorted(set(folders) - set(passed_over))
        for name in sorted(passed_over + names):
            path = Path(parent, name)
            if path.suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".") and name not in passed_over:
                yield path
            elif on_skip is not None:
                on_skip(path)


def _check_link(folder: Path, link: Path) -> None:
    """Refuse a link to a folder that contains it, or that was passed on the way from ``folder``."""
    target = link.resolve()
    way = [link.parent, *link.parent.parents][: len(link.parent.parts) - len(folder.parts) + 1]
    if any(step.resolve().is_relative_to(target) for step in way):
        raise InputError(f"The link {link} forms a loop: it leads back to {target}; remove the link.")

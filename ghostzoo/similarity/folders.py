"""``ghostzoo.build_index`` and ``ghostzoo.find_duplicates``: what is done with a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from .._utils.urls import as_path
from ..errors import ImageError, InputError
from ..images.inputs import walk
from ..images.options import ImageLimits
from ..images.sources import read_encoded
from ..model import LoadedModel
from .duplicates import THRESHOLD, find_groups
from .index import Index
from .updating import Update, update, update_cached

OnStart = Callable[[int], Callable[[], object]]


@dataclass(frozen=True)
class IndexReport:
    """An index, and what was done for it."""

    index: Index
    new: int
    """Pictures that were embedded: those that no earlier run saw."""
    dropped: int
    """Pictures of an earlier run that are not there any more."""
    unreadable: tuple[ImageError, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON types."""
        return {
            "index": str(self.index.path),
            "model": self.index.model,
            "pictures": len(self.index),
            "new": self.new,
            "dropped": self.dropped,
            "unreadable": [{"image": error.source, "error": error.reason} for error in self.unreadable],
        }


@dataclass(frozen=True)
class Duplicates:
    """Groups of pictures that are nearly the same."""

    folder: Path
    pictures: int
    """That were compared."""
    groups: tuple[tuple[str, ...], ...]
    """Names of pictures, as paths from the folder on; the largest file first."""
    unreadable: tuple[ImageError, ...] = field(repr=False)

    def write_report(self, path: str | PathLike[str], classifier: LoadedModel) -> None:
        """Write a page of HTML with thumbnails, which needs no other file; of many groups it has the first ones.

        Args:
            path: the file.
            classifier: reads the pictures.

        Raises:
            OSError: it cannot be written.
        """
        from .report import write_report

        write_report(as_path(path, "path"), self.folder, self.pictures, self.groups, classifier.read_image)


@dataclass(frozen=True)
class _File:
    """A picture of a folder."""

    name: str
    path: Path
    limits: ImageLimits

    def read(self) -> bytes:
        return read_encoded(self.path, self.limits)

    def stamp(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except OSError as error:
            raise ImageError(self.name, f"it cannot be opened ({error.strerror or error})") from error
        return found.st_size, found.st_mtime_ns


def build_index(
    classifier: LoadedModel,
    folder: str | PathLike[str],
    out: str | PathLike[str],
    *,
    overwrite: bool = False,
    on_start: OnStart = lambda _: lambda: None,
) -> IndexReport:
    """Write the embeddings of all pictures in a folder and below into a file, or bring that file up to date.

    Pictures that the file has already, and that have not changed, are not read again; those that are gone are dropped.
    The file is replaced when the new one is whole.

    Args:
        classifier: a loaded model.
        folder: the pictures; links to folders are not followed.
        out: the file.
        overwrite: replace an index of another model or folder, or a damaged one.
        on_start: called with the number of pictures once they are listed; what it returns is called after each.

    Raises:
        InputError: the folder is not there, or has no picture that can be read.
        IndexFileError: ``out`` is such an index or another file, or cannot be written; it is as it was before.
        EngineError: the network cannot be run.
    """
    place, pictures = _find(classifier, folder)
    done = update(as_path(out, "out"), pictures, classifier, place, on_start(len(pictures)), overwrite=overwrite)
    return IndexReport(done.index, done.computed, done.dropped, done.unreadable)


def find_duplicates(
    classifier: LoadedModel,
    folder: str | PathLike[str],
    *,
    threshold: float = THRESHOLD,
    index: str | PathLike[str] | None = None,
    on_start: OnStart = lambda _: lambda: None,
) -> Duplicates:
    """Find pictures in a folder and below that are nearly the same: rescaled, recompressed, slightly cropped.

    No file is changed or removed.

    Args:
        classifier: a loaded model.
        folder: the pictures.
        threshold: lowest cosine of the embeddings of pictures whose looks differ somewhat, 0 to 1.
        index: an index of this folder, which is brought up to date; by default the cache folder keeps one.
        on_start: as for ``build_index``.

    Raises:
        InputError: the folder is not there, or has fewer than two pictures that can be read.
        OptionError: the threshold is no cosine.
        IndexFileError, EngineError: as for ``build_index``.
    """
    place, pictures = _find(classifier, folder)
    advance = on_start(len(pictures))
    done: Update
    if index is None:
        done = update_cached(pictures, classifier, place, advance)
    else:
        done = update(as_path(index, "index"), pictures, classifier, place, advance)
    found = done.index
    if len(found) < 2:
        raise InputError(f"{folder} has one picture that can be read, and there is nothing to compare it with.")
    groups = find_groups(found.digests, found.hashes, found.embeddings, threshold)
    named = [sorted(group, key=lambda row: -found.sizes[row]) for group in groups]
    names = sorted(tuple(map(found.name, group)) for group in named)
    return Duplicates(place, len(found), tuple(names), done.unreadable)


def _find(classifier: LoadedModel, folder: str | PathLike[str]) -> tuple[Path, list[_File]]:
    place = as_path(folder, "folder")
    if not place.is_dir():
        what = (
            "is no folder; name the folder that the pictures are in"
            if place.exists()
            else "is not there; check the path"
        )
        raise InputError(f"{place} {what}.")
    root = place.resolve()
    pictures = [_File(path.relative_to(root).as_posix(), path, classifier.limits) for path in walk(root)]
    if not pictures:
        raise InputError(f"There are no pictures in {place}; check the path, and the names of its files.")
    return root, pictures

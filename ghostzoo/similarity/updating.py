"""Indexes are brought up to date: what has not changed is not computed again."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .._utils.cache import cache_key, place_in_cache
from .._utils.files import replacing
from ..errors import EngineError, ImageError, IndexFileError, InputError
from ..model import LoadedModel
from .embedding import Picture, embed_all, identity_of
from .index import DamagedIndexError, Index
from .layout import IndexWriter

_SETTLED_NANOSECONDS = 2_000_000_000
"""A file that was written less than this before it was looked at may be written again without a change of its time."""
_HEAD = 4096
"""Bytes of a file in which it says that it is an index."""
_log = logging.getLogger("ghostzoo")


@dataclass(frozen=True)
class Update:
    """What became of the pictures."""

    index: Index
    rows: tuple[int | ImageError, ...]
    """Of each picture, in order: where it is in the index, or why it could not be read."""
    computed: int
    """Pictures that the network was run on."""
    dropped: int
    """Pictures of the earlier index that are not there any more."""

    @property
    def unreadable(self) -> tuple[ImageError, ...]:
        return tuple(row for row in self.rows if isinstance(row, ImageError))


def update(
    path: Path,
    pictures: Sequence[Picture],
    model: LoadedModel,
    folder: Path,
    on_picture: Callable[[], object] = lambda: None,
    *,
    overwrite: bool = False,
) -> Update:
    """Make the index ``path`` one of these ``pictures``; it is replaced when the new one is whole.

    What it has already is kept: files of the same name, size and time without a look into them, others by their
    content. If an interrupt or the engine's failure ends it, what was computed until then is in the index.

    Args:
        path: the index.
        pictures: all that it shall have.
        model: whose embeddings are taken.
        folder: where the pictures are.
        on_picture: called after each picture, for a progress bar.
        overwrite: replace an index that is damaged or of another model or folder.

    Raises:
        IndexFileError: ``path`` is such an index, or no index; or it cannot be written.
        InputError: no picture can be read.
        EngineError: the network cannot be run.
    """
    earlier = _earlier(path, model, folder, overwrite)
    try:
        return _update(path, pictures, model, folder, on_picture, earlier)
    except DamagedIndexError:
        if not overwrite:
            raise
        return _update(path, pictures, model, folder, on_picture, None)


def _update(
    path: Path,
    pictures: Sequence[Picture],
    model: LoadedModel,
    folder: Path,
    on_picture: Callable[[], object],
    earlier: Index | None,
) -> Update:
    known = {} if earlier is None else {earlier.name(row): row for row in range(len(earlier))}
    dropped = len({*known} - {picture.name for picture in pictures})
    results: list[int | ImageError] = [-1] * len(pictures)
    kept, rest, stamps = _compare(pictures, earlier, known, results)
    for _ in range(len(pictures) - len(rest)):
        on_picture()
    if earlier is not None and not rest and len(kept) == len(earlier):
        for number, row in kept:
            results[number] = row
        return Update(earlier, tuple(results), 0, 0)
    computed, failure = 0, None
    try:
        with replacing(path) as file:
            writer = IndexWriter(file)
            if earlier is not None:
                _copy(writer, earlier, kept, pictures, results)
            done = embed_all([pictures[number] for number in rest], model, earlier, on_picture)
            try:
                for number, result in zip(rest, done, strict=True):
                    if isinstance(result, ImageError):
                        results[number] = result
                        continue
                    results[number] = len(writer)
                    name = pictures[number].name
                    writer.add(name, result.embedding, result.digest, result.look, stamps[number])
                    computed += result.computed
            except (KeyboardInterrupt, EngineError) as error:
                failure = error
                if not computed:
                    raise
            _check_any(len(writer), results, folder)
            writer.finish(model.bundle.name, identity_of(model), folder)
            del done, earlier  # Windows replaces no file that is mapped
    except OSError as error:
        raise IndexFileError(f"{path} cannot be written: {error.strerror or error}; choose another file.") from error
    if failure is not None:
        raise failure
    return Update(Index.open(path), tuple(results), computed, dropped)


def update_cached(
    pictures: Sequence[Picture], model: LoadedModel, folder: Path, on_picture: Callable[[], object] = lambda: None
) -> Update:
    """Do as ``update`` does, with an index in the cache folder; where that cannot be written, nothing is kept."""
    folder = folder.resolve()
    place = place_in_cache(f"embeddings/{cache_key(identity_of(model), str(folder))}.index")
    if place is not None:
        return update(place, pictures, model, folder, on_picture, overwrite=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # what is mapped outlives its file
        return update(Path(scratch, "pictures.index"), pictures, model, folder, on_picture)


def _earlier(path: Path, model: LoadedModel, folder: Path, overwrite: bool) -> Index | None:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IndexFileError(f"{path} cannot be read: {error.strerror or error}; choose another file.") from error
    if head.strip(b"\0") and b'"ghostzoo_index"' not in head:
        raise IndexFileError(f"{path} exists and is no index of pictures; choose another file.")
    try:
        index = Index.open(path)
        index.check(model.bundle.name, identity_of(model))
    except IndexFileError as error:
        if not overwrite:
            raise
        _log.info("%s", error)
        return None
    if index.folder != folder and not overwrite:
        raise IndexFileError(
            f"{path} is an index of {index.folder}, not of {folder}; choose another file, or overwrite it."
        )
    return index


def _compare(
    pictures: Sequence[Picture], earlier: Index | None, known: Mapping[str, int], results: list[int | ImageError]
) -> tuple[list[tuple[int, int]], list[int], list[tuple[int, int]]]:
    """Return the pictures that are unchanged, with their rows in ``earlier``; the others; and all stamps.

    Args:
        pictures: all of them.
        earlier: the index that there is.
        known: name -> row in it.
        results: errors are noted there.
    """
    settled = time.time_ns() - _SETTLED_NANOSECONDS
    kept, rest, stamps = [], [], []
    for number, picture in enumerate(pictures):
        size = written = 0
        try:
            size, written = picture.stamp()
        except ImageError as error:
            results[number] = error
        else:
            row = known.get(picture.name)
            if earlier is not None and row is not None and (size, written) == (earlier.sizes[row], earlier.times[row]):
                kept.append((number, row))
            else:
                rest.append(number)
        stamps.append((size, written if written < settled else 0))
    return kept, rest, stamps


def _copy(
    writer: IndexWriter,
    earlier: Index,
    kept: Sequence[tuple[int, int]],
    pictures: Sequence[Picture],
    results: list[int | ImageError],
) -> None:
    for number, row in kept:
        results[number] = len(writer)
        embedding = earlier.taken(slice(row, row + 1))[0]
        digest, look = bytes(earlier.digests[row]), bytes(earlier.hashes[row])
        writer.add(pictures[number].name, embedding, digest, look, (earlier.sizes[row], earlier.times[row]))


def _check_any(readable: int, results: Sequence[int | ImageError], folder: Path) -> None:
    errors = [result for result in results if isinstance(result, ImageError)]
    if not readable:
        raise InputError(f"None of the pictures in {folder} can be read; the first, {errors[0]}.")

"""Pictures -> their embeddings and hashes, of which those that an index has already are not computed again."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from .._utils.cache import cache_key, place_in_cache
from .._utils.files import replacing
from .._utils.parallel import map_batches
from ..bundle.folder import Bundle
from ..engines.base import Engine
from ..engines.sessions import OpenedEngines
from ..errors import BundleError, EngineError, ImageError, IndexFileError, InputError
from ..images.options import ImageLimits
from ..images.transform import preprocess
from .index import DIGEST_BYTES, DamagedIndexError, Embeddings, Index, IndexWriter

_BATCH_SIZE = 8
_SETTLED_NANOSECONDS = 2_000_000_000
"""A file that was written less than this before it was looked at may be written again without a change of its time."""
_HEAD = 4096
"""Bytes of a file in which it says that it is an index."""
_log = logging.getLogger("ghostzoo")


class Model(Protocol):
    """What a ``Classifier`` has that is needed here."""

    bundle: Bundle
    engines: OpenedEngines
    limits: ImageLimits

    def read_image(self, image: Any) -> NDArray[np.uint8]: ...


class Picture(Protocol):
    """A picture that can be read."""

    @property
    def name(self) -> str: ...

    def read(self) -> bytes:
        """Return the encoded picture, or raise an ``ImageError``."""

    def stamp(self) -> tuple[int, int]:
        """Return size and time of the file, which tell whether it has changed; raises as ``read`` does."""


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


def identity_of(model: Model) -> str:
    """Return what tells apart models whose embeddings cannot be compared."""
    bundle, precision = model.bundle, model.engines.for_calls.options.precision
    return cache_key(bundle.model_hash(bundle.source_precision(precision)), precision, bundle.preprocessing)


def update(
    path: Path,
    pictures: Sequence[Picture],
    model: Model,
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
    model: Model,
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
            done = _embed_all([pictures[number] for number in rest], model, earlier, on_picture)
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
    pictures: Sequence[Picture], model: Model, folder: Path, on_picture: Callable[[], object] = lambda: None
) -> Update:
    """Do as ``update`` does, with an index in the cache folder; where that cannot be written, nothing is kept."""
    folder = folder.resolve()
    place = place_in_cache(f"embeddings/{cache_key(identity_of(model), str(folder))}.index")
    if place is not None:
        return update(place, pictures, model, folder, on_picture, overwrite=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # what is mapped outlives its file
        return update(Path(scratch, "pictures.index"), pictures, model, folder, on_picture)


def _earlier(path: Path, model: Model, folder: Path, overwrite: bool) -> Index | None:
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


@dataclass(frozen=True)
class _Row:
    digest: bytes
    embedding: Embeddings
    look: bytes
    computed: bool = True


def _embed_all(
    pictures: Sequence[Picture], model: Model, earlier: Index | None, on_picture: Callable[[], object]
) -> Iterator[_Row | ImageError]:
    """Yield the rows of pictures in order, several threads ahead."""
    known = {} if earlier is None else {bytes(digest): row for row, digest in enumerate(earlier.digests)}

    def find(digest: bytes) -> _Row | None:
        row = known.get(digest)
        if row is None or earlier is None:
            return None
        return _Row(digest, earlier.taken(slice(row, row + 1))[0], earlier.hashes[row].tobytes(), computed=False)

    engines = model.engines
    workers = engines.concurrent_calls
    engine = engines.for_many if workers > 1 else engines.for_calls
    work = partial(_embed, model=model, engine=engine, find=find)
    with closing(map_batches(work, pictures, engine.options.batch_size or _BATCH_SIZE, workers)) as batches:
        for batch in batches:
            for row in batch:
                on_picture()
                yield row


def _embed(
    batch: Iterable[Picture], model: Model, engine: Engine, find: Callable[[bytes], _Row | None]
) -> list[_Row | ImageError]:
    results: list[_Row | ImageError] = []
    new: list[tuple[int, bytes, bytes]] = []
    tensors = []
    for picture in batch:
        try:
            data = picture.read()
            digest = hashlib.sha256(data).digest()[:DIGEST_BYTES]
            row = find(digest)
            if row is None:
                rgb = model.read_image(data)
                tensors.append(preprocess(rgb, model.bundle.preprocessing))
                new.append((len(results), digest, look_of(rgb)))
            results.append(row or ImageError(picture.name, ""))  # until the network has run
        except ImageError as error:
            results.append(ImageError(picture.name, error.reason))
    if tensors:
        embeddings = engine.run(np.stack(tensors), "embedding")
        if not np.isfinite(embeddings).all():
            raise BundleError(f"{model.bundle.name} gives embeddings that are not numbers; take another model.")
        for (place, digest, look), embedding in zip(new, embeddings, strict=True):
            results[place] = _Row(digest, embedding, look)
    return results


def look_of(rgb: NDArray[np.uint8]) -> bytes:
    """Return 32 bytes, a hash of how a picture looks: is a place brighter than its left neighbour, at 16 x 16 of them
    (the difference hash of N. Krawetz, 2013, of 256 bits)."""
    small = cv2.resize(rgb, (17, 16), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()

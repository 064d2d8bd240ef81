"""An index: the embeddings of pictures in a file that is mapped, not loaded; and exact search in it by cosine."""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._utils.urls import as_path
from ..engines.base import check_count
from ..errors import IndexFileError, OptionError
from ..network.architecture import EMBEDDING_SIZE
from ..weights.safetensors import parse_safetensors
from .layout import FORMAT, TENSORS, Embeddings, checksum, lengths

if TYPE_CHECKING:
    from .approximate import Lists

BLOCK = 8192
"""Embeddings that are worked on at once: 42 MB of them."""
_QUERIES = 256
"""Queries that are compared with them at once."""
_NORM_TOLERANCE = 1e-3
_MAX_NAME = 2**14
"""Bytes of a name: four times the longest path that systems take."""
_TINY = np.float32(np.finfo(np.float32).tiny)
_AGAIN = "Index the pictures again (overwrite)."


class DamagedIndexError(IndexFileError):
    """What was in the index has changed."""


@dataclass(frozen=True)
class Match:
    """A picture of an index, and how similar it is."""

    path: Path
    score: float
    """The cosine of the two embeddings: 1 for the same picture."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"path": str(self.path), "score": round(self.score, 6)}


@dataclass(frozen=True, eq=False)
class Index:
    """Embeddings of the pictures in a folder; safe to search from many threads."""

    path: Path
    model: str
    """Name of the model whose embeddings these are."""
    identity: str
    """Of the model's graph, precision and preprocessing."""
    folder: Path
    """Where the pictures were."""
    embeddings: Embeddings = field(repr=False)
    """(N, 1280) float32, as ``Classifier.embed`` returns them; mapped and read-only."""
    norms: NDArray[np.float32] = field(repr=False)
    """(N,): lengths of the embeddings."""
    digests: NDArray[np.uint8] = field(repr=False)
    """(N, 16): of the files."""
    hashes: NDArray[np.uint8] = field(repr=False)
    """(N, 32): of how the pictures look; those of copies differ in few bits."""
    sizes: NDArray[np.int64] = field(repr=False)
    """(N,): bytes of the files."""
    times: NDArray[np.int64] = field(repr=False)
    """(N,): when the files were written, in nanoseconds; 0 where that is no sign of whether they have changed."""
    _names: bytes = field(repr=False)
    _ends: NDArray[np.int64] = field(repr=False)

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Index:
        """Open an index file.

        Raises:
            IndexFileError: it is not there, damaged, of a newer format, or something else.
        """
        path = as_path(path, "index")
        try:
            with path.open("rb") as file:
                tensors, facts = parse_safetensors(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            return cls._of(path, tensors, facts)
        except OSError as error:
            raise IndexFileError(
                f"The index {path} cannot be opened: {error.strerror or error}; 'ghostzoo index' makes one."
            ) from error
        except ValueError as error:  # of an empty file, too
            raise IndexFileError(f"{path} is no index of pictures, or damaged: {error}. {_AGAIN}") from error

    @classmethod
    def _of(cls, path: Path, tensors: dict[str, NDArray[Any]], facts: dict[str, str]) -> Index:
        version = facts.get("ghostzoo_index")
        if version is not None and version != FORMAT:
            raise IndexFileError(
                f"{path} is an index of format {version[:20]}; this version of ghostzoo reads format {FORMAT}. {_AGAIN}"
            )
        if version is None or not {"model", "identity", "folder", "checksum"} <= {*facts}:
            raise ValueError("it was not written by ghostzoo")
        if {*tensors} != {*TENSORS, "names"}:
            raise ValueError("it has other tensors")
        count = len(tensors["norms"])
        for name, (_, dtype, row) in TENSORS.items():
            if tensors[name].dtype != np.dtype(dtype) or tensors[name].shape != (count, *row):
                raise ValueError(f"{name} is {tensors[name].dtype} {tensors[name].shape}")
        if tensors["names"].nbytes > _MAX_NAME * count:
            raise ValueError("its names are too long")
        names = tensors.pop("names").tobytes()
        if facts["checksum"] != checksum([*(tensors[name] for name in list(TENSORS)[1:]), names]):
            raise ValueError("its checksum is another one")
        ends = np.append(np.flatnonzero(np.frombuffer(names, np.uint8) == 0), len(names))
        if not count or len(ends) != count or np.diff(ends, prepend=-1).min() < 2:
            raise ValueError(f"it has {count} pictures and other names")
        return cls(path, facts["model"], facts["identity"], Path(facts["folder"]), **tensors, _names=names, _ends=ends)

    def __len__(self) -> int:
        return len(self.norms)

    def name(self, row: int) -> str:
        """Return the name of a picture: its path from ``folder`` on, with slashes.

        Raises:
            IndexFileError: it would lead out of the folder.
        """
        start = self._ends[row - 1] + 1 if row else 0
        try:
            name = self._names[start : self._ends[row]].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise self._damaged("a name is no text") from error
        path = PurePath(name)
        if path.is_absolute() or path.drive or ".." in path.parts:
            raise self._damaged(f"the name {name[:80]!r} leads out of the folder")
        return name

    def search(self, vectors: Embeddings, k: int = 5, *, approximate: bool = False) -> list[list[Match]]:
        """Find the pictures whose embeddings have the largest cosine with each of ``vectors``.

        Args:
            vectors: (Q, 1280) float32 embeddings of the same model, or (1280,) for one.
            k: pictures for each, the most similar first; all where the index has fewer.
            approximate: look at the pictures in the nearest clusters only, which takes a small part of the time and
                misses one of the nearest now and then. The clusters are made at the first such search, and kept in
                the cache folder. It needs ``pip install 'ghostzoo[search]'``.

        Raises:
            OptionError: ``k`` is no whole number from 1 on, or ``vectors`` have another shape.
            IndexFileError: what is found cannot be embeddings: the file is damaged.
            EngineUnavailableError: what ``approximate`` needs is not installed.
        """
        check_count("k", k)
        queries = np.atleast_2d(np.asarray(vectors, np.float32))
        if queries.ndim != 2 or queries.shape[1] != EMBEDDING_SIZE or not np.isfinite(queries).all():
            raise OptionError(f"vectors must be finite numbers of shape (Q, {EMBEDDING_SIZE}), not {queries.shape}.")
        queries = np.divide(queries, np.maximum(lengths(queries), _TINY)[:, np.newaxis], dtype=np.float32)
        if approximate:
            near = self._lists.candidates(queries, k)
            found = [self._ranked(query, rows, k) for query, rows in zip(queries, near, strict=True)]
        else:
            parts = range(0, len(queries), _QUERIES)
            found = [each for start in parts for each in self._nearest(queries[start : start + _QUERIES], k)]
        pairs = [zip(rows.tolist(), scores.tolist(), strict=True) for rows, scores in found]
        return [[Match(self.folder / self.name(row), score) for row, score in each] for each in pairs]

    def check(self, model: str, identity: str) -> None:
        """Check that this is an index of a model.

        Raises:
            IndexFileError: it is one of another model.
        """
        if self.identity != identity:
            other = (
                f"is an index of the model {self.model}, not of {model}; load that one, or index pictures with this "
                "one in another file."
                if self.model != model
                else f"is an index of another version or precision of {model}; index the pictures again (overwrite)."
            )
            raise IndexFileError(f"{self.path} {other}")

    def taken(self, rows: NDArray[np.int64] | slice) -> Embeddings:
        """Return the embeddings of some pictures after checking them.

        Raises:
            IndexFileError: they are damaged.
        """
        embeddings, norms = self.embeddings[rows], self.norms[rows]
        if not (np.abs(lengths(embeddings) - norms) <= _NORM_TOLERANCE * norms).all():  # not a number compares as false
            raise self._damaged("embeddings have changed")
        return embeddings

    def unit(self, rows: NDArray[np.int64] | slice) -> Embeddings:
        """Return the embeddings of some pictures, of length 1; raises as ``taken`` does."""
        return np.divide(self.taken(rows), np.maximum(self.norms[rows], _TINY)[:, np.newaxis], dtype=np.float32)

    @property
    def content(self) -> str:
        """A hash of what is in it, in hexadecimal."""
        return hashlib.sha256(self.identity.encode() + self.digests.tobytes()).hexdigest()

    @cached_property
    def _lists(self) -> Lists:
        from .approximate import Lists

        return Lists(self)

    def _damaged(self, reason: str) -> DamagedIndexError:
        return DamagedIndexError(f"{self.path} is damaged: {reason}. {_AGAIN}")

    def _nearest(self, queries: Embeddings, k: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Return rows and scores of the ``k`` nearest of each query; of equal scores the first rows."""
        best = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        for start in range(0, len(self), BLOCK):
            block = self.embeddings[start : start + BLOCK]
            scores = (queries @ block.T) / np.maximum(self.norms[start : start + BLOCK], _TINY)
            if not np.isfinite(scores).all():
                raise self._damaged("embeddings are not numbers")
            for index, row in enumerate(scores):
                rows, kept = best[index]
                least = np.partition(row, -k)[-k] if len(row) > k else -np.inf
                if len(kept) == k:
                    least = max(least, kept[-1])
                new = np.flatnonzero(row >= least)
                best[index] = _top(np.append(rows, new + start), np.append(kept, row[new]), k)
        for rows, _ in best:
            self.taken(rows)
        return best

    def _ranked(
        self, query: Embeddings, rows: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return _top(rows, self.unit(rows) @ query, k)


def _top(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]

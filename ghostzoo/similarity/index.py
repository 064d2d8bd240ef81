"""An index: the embeddings of pictures in a file that is mapped, not loaded; and exact search in it by cosine.

The file is a safetensors file, so other programs read it too. It holds no pictures.
"""

from __future__ import annotations

import hashlib
import mmap
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._utils.urls import as_path
from .._version import __version__
from ..engines.base import check_count
from ..errors import IndexFileError, OptionError
from ..network.architecture import EMBEDDING_SIZE
from ..weights.safetensors import parse_safetensors, safetensors_head

if TYPE_CHECKING:
    from .approximate import Lists

FORMAT = "1"
DIGEST_BYTES, HASH_BYTES = 16, 32
BLOCK = 8192
"""Embeddings that are worked on at once: 42 MB of them."""
_HEAD_BYTES = 2**15
"""Embeddings begin at a page of memory, and the folder's name has room."""
_TENSORS: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "embeddings": ("F32", "<f4", (EMBEDDING_SIZE,)),
    "norms": ("F32", "<f4", ()),
    "digests": ("U8", "|u1", (DIGEST_BYTES,)),
    "hashes": ("U8", "|u1", (HASH_BYTES,)),
    "sizes": ("I64", "<i8", ()),
    "times": ("I64", "<i8", ()),
}
"""Name -> dtype in the file and in numpy, and shape of a picture's row. After them come the ``names``, with a zero byte
between two."""
_NORM_TOLERANCE = 1e-3

Embeddings = NDArray[np.float32]


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


@dataclass(frozen=True)
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
        if {*tensors} != {*_TENSORS, "names"}:
            raise ValueError("it has other tensors")
        count = len(tensors["norms"])
        for name, (_, dtype, row) in _TENSORS.items():
            if tensors[name].dtype != np.dtype(dtype) or tensors[name].shape != (count, *row):
                raise ValueError(f"{name} is {tensors[name].dtype} {tensors[name].shape}")
        names = tensors.pop("names").tobytes()
        if facts["checksum"] != _checksum([*(tensors[name] for name in list(_TENSORS)[1:]), names]):
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
        name = self._names[start : self._ends[row]].decode("utf-8", "surrogatepass")
        path = PurePath(name)
        if path.is_absolute() or path.drive or ".." in path.parts:
            raise self._damaged(f"the name {name[:80]!r} leads out of the folder")
        return name

    def search(self, vectors: Embeddings, k: int = 5, *, approximate: bool = False) -> list[list[Match]]:
        """Find the pictures whose embeddings have the largest cosine with each of ``vectors``.

        Args:
            vectors: (Q, 1280) float32 embeddings of the same model, or (1280,) for one.
            k: pictures for each, the most similar first; all where the index has fewer.
            approximate: search a graph of the nearest neighbours (HNSW) instead of all pictures: a thousandth of the
                time, and now and then one of the nearest is missed. The graph is made at the first such search, and
                kept in the cache folder. It needs ``pip install 'ghostzoo[search]'``.

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
            found = self._nearest(queries, k)
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


class IndexWriter:
    """Writes an index picture by picture; their embeddings are not held in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._file.seek(_HEAD_BYTES)
        self._names: list[bytes] = []
        self._norms, self._stamps = array("f"), array("q")
        self._digests, self._hashes = bytearray(), bytearray()

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, embedding: Embeddings, digest: bytes, look: bytes, stamp: tuple[int, int]) -> None:
        """Add a picture: its (1280,) float32 embedding, digest, hash of its look, and size and time of its file."""
        self._file.write(np.ascontiguousarray(embedding, "<f4").data)
        self._names.append(name.encode("utf-8", "surrogatepass"))
        self._norms.append(float(lengths(embedding[np.newaxis])[0]))
        self._digests += digest
        self._hashes += look
        self._stamps.extend(stamp)

    def finish(self, model: str, identity: str, folder: Path) -> None:
        """Write what stands after and before the embeddings."""
        names = b"\0".join(self._names)
        parts: list[Any] = [
            np.array(self._norms, "<f4"),
            self._digests,
            self._hashes,
            *np.array(self._stamps, "<i8").reshape(-1, 2).T.copy(),
            names,
        ]
        for part in parts:
            self._file.write(part)
        shapes = {name: (kind, (len(self), *row)) for name, (kind, _, row) in _TENSORS.items()}
        facts = {
            "ghostzoo_index": FORMAT,
            "ghostzoo_version": __version__,
            "model": model,
            "identity": identity,
            "folder": str(folder),
            "checksum": _checksum(parts),
        }
        head = safetensors_head(shapes | {"names": ("U8", (len(names),))}, facts, _HEAD_BYTES)
        if len(head) > _HEAD_BYTES:
            raise OSError(f"the folder's name is too long: {folder}")
        self._file.seek(0)
        self._file.write(head)


def lengths(vectors: Embeddings) -> NDArray[np.float32]:
    """(N, E) -> (N,): their Euclidean lengths."""
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    result: NDArray[np.float32] = np.sqrt(squares).astype(np.float32)
    return result


def _top(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def _checksum(parts: Sequence[Any]) -> str:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return f"{value:08x}"


_TINY = np.float32(np.finfo(np.float32).tiny)
_AGAIN = "Index the pictures again (overwrite)."

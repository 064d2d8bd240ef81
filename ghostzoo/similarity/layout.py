"""The layout of an index, and how one is written.

It is a safetensors file, so other programs read it too. It holds no pictures.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .._version import __version__
from ..network.architecture import EMBEDDING_SIZE
from ..weights.safetensors import safetensors_head

FORMAT = "1"
DIGEST_BYTES, HASH_BYTES = 16, 32
_HEAD_BYTES = 2**15
"""Embeddings begin at a page of memory, and the folder's name has room."""
TENSORS: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "embeddings": ("F32", "<f4", (EMBEDDING_SIZE,)),
    "norms": ("F32", "<f4", ()),
    "digests": ("U8", "|u1", (DIGEST_BYTES,)),
    "hashes": ("U8", "|u1", (HASH_BYTES,)),
    "sizes": ("I64", "<i8", ()),
    "times": ("I64", "<i8", ()),
}
"""Name -> dtype in the file and in numpy, and shape of a picture's row. After them come the ``names``, with a zero byte
between two."""

Embeddings = NDArray[np.float32]


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
        shapes = {name: (kind, (len(self), *row)) for name, (kind, _, row) in TENSORS.items()}
        facts = {
            "ghostzoo_index": FORMAT,
            "ghostzoo_version": __version__,
            "model": model,
            "identity": identity,
            "folder": str(folder),
            "checksum": checksum(parts),
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


def checksum(parts: Sequence[Any]) -> str:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return f"{value:08x}"

"""What fitting keeps of pictures: their embeddings, and hashes by which copies are found; the pictures themselves not.

Embeddings are rounded to float16 before anything is computed of them, so that a head is the same whether its pictures
came at once or one after the other.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.arrays import read_array, write_arrays
from ..classifier import Classifier
from ..errors import BundleError, ImageError
from ..evaluation.datasets import ImageDataset
from ..network.architecture import EMBEDDING_SIZE
from ..similarity.layout import DIGEST_BYTES, HASH_BYTES
from ..similarity.updating import update_cached

PICTURES_FILE = "fit/pictures.npz"
"""In a bundle."""
MAX_PICTURES = 100_000
_MAX_NAME = 200
"""Characters that are kept of a picture's name."""


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures as the network sees them."""

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    """(N,) class indices."""
    embeddings: NDArray[np.float16]
    """(N, E)"""
    digests: NDArray[np.uint8]
    """(N, 16): of the files."""
    hashes: NDArray[np.uint8]
    """(N, 32): of how the pictures look; those of copies differ in few bits."""

    def __len__(self) -> int:
        return len(self.names)

    def taken(self, indices: NDArray[np.int64]) -> Pictures:
        names = tuple(self.names[index] for index in indices.tolist())
        return Pictures(names, **{name: values[indices] for name, values in self._arrays().items()})

    def with_more(self, more: Pictures) -> Pictures:
        others = more._arrays()
        arrays = {name: np.concatenate([values, others[name]]) for name, values in self._arrays().items()}
        return Pictures(self.names + more.names, **arrays)

    def in_order(self) -> Pictures:
        """Sort by class and content, so that it does not matter in which order pictures came."""
        return self.taken(np.lexsort((self.names, *self.digests.T[::-1], self.labels)))

    def to_bytes(self) -> bytes:
        """Serialise as an uncompressed ``.npz``, about 2.6 kB per picture."""
        names = "\n".join(name.replace("\n", " ")[-_MAX_NAME:] for name in self.names)
        return write_arrays(**self._arrays(), names=np.frombuffer(names.encode("utf-8", "replace") or b" ", np.uint8))

    @classmethod
    def from_bytes(cls, data: bytes) -> Pictures:
        """Read what ``to_bytes`` wrote; nothing is unpickled.

        Raises:
            BundleError: it is something else, or damaged.
        """
        import zipfile

        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                labels = read_array(archive, "labels", "<i8", (), MAX_PICTURES)
                embeddings = read_array(archive, "embeddings", "<f2", (EMBEDDING_SIZE,), MAX_PICTURES)
                digests = read_array(archive, "digests", "|u1", (DIGEST_BYTES,), MAX_PICTURES)
                hashes = read_array(archive, "hashes", "|u1", (HASH_BYTES,), MAX_PICTURES)
                text = read_array(archive, "names", "|u1", (), 4 * (_MAX_NAME + 1) * MAX_PICTURES)
            names = tuple(bytes(text).decode().split("\n"))
            if {len(each) for each in (names, labels, embeddings, digests, hashes)} != {len(names)}:
                raise ValueError("its arrays differ in length")
            if not np.isfinite(embeddings).all() or labels.min() < 0:
                raise ValueError("it has impossible numbers")
        except Exception as error:  # zipfile and numpy's header parser raise many kinds of errors on damaged data
            raise BundleError(
                f"{PICTURES_FILE} is damaged ({str(error)[:200]!a}); fit the model anew with all pictures."
            ) from error
        return cls(names, labels, embeddings, digests, hashes)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "labels": self.labels,
            "embeddings": self.embeddings,
            "digests": self.digests,
            "hashes": self.hashes,
        }


def read_pictures(
    classifier: Classifier, dataset: ImageDataset, place: Path, on_image: Callable[[], object]
) -> tuple[Pictures, list[ImageError]]:
    """Embed all pictures of ``dataset``; those that were embedded by an earlier call are not decoded again.

    Args:
        classifier: the model.
        dataset: labelled pictures.
        place: where they are: the cache folder keeps the embeddings of the last call for each place.
        on_image: called after each picture, for a progress bar.

    Returns:
        The pictures that could be read, and why the others could not.
    """
    done = update_cached(dataset.samples, classifier, place, on_image)
    pairs = [(sample, row) for sample, row in zip(dataset.samples, done.rows, strict=True) if isinstance(row, int)]
    rows = np.array([row for _, row in pairs], np.int64)
    largest = np.finfo(np.float16).max
    pictures = Pictures(
        tuple(sample.name for sample, _ in pairs),
        np.array([sample.label for sample, _ in pairs], np.int64),
        np.clip(done.index.taken(rows), 0, largest).astype(np.float16),
        done.index.digests[rows],
        done.index.hashes[rows],
    )
    return pictures, list(done.unreadable)

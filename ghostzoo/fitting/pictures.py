"""What fitting keeps of pictures: their embeddings, and hashes by which copies are found; the pictures themselves not.

Embeddings are rounded to float16 before anything is computed of them, so that a head is the same whether its pictures
came at once or one after the other.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .._utils.cache import cache_key, read_cached, write_cached
from .._utils.parallel import map_batches
from ..bundle.arrays import read_array, write_arrays
from ..classifier import Classifier
from ..engines.base import Engine
from ..errors import BundleError, ImageError
from ..evaluation.datasets import ImageDataset, Sample
from ..images.transform import preprocess
from ..network.architecture import EMBEDDING_SIZE

PICTURES_FILE = "fit/pictures.npz"
"""In a bundle."""
MAX_PICTURES = 100_000
DIGEST_BYTES, HASH_BYTES = 16, 32
_BATCH_SIZE = 8
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


@dataclass(frozen=True)
class _Row:
    digest: bytes
    embedding: NDArray[np.float16]
    look: NDArray[np.uint8]


def read_pictures(
    classifier: Classifier, dataset: ImageDataset, place: Path, on_image: Callable[[], object]
) -> tuple[Pictures, list[ImageError]]:
    """Embed all pictures of ``dataset``; those that were embedded by an earlier call are not decoded again.

    Args:
        classifier: the model; a file's embedding is kept in the cache folder for it, by the file's hash.
        dataset: labelled pictures.
        place: where they are: the cache keeps those of the last call for each place.
        on_image: called after each picture, for a progress bar.

    Returns:
        The pictures that could be read, and why the others could not.
    """
    bundle = classifier.bundle
    name = f"embeddings/{cache_key(bundle.model_hash(), bundle.preprocessing, str(place.resolve()))}"
    known = _known(name)
    engines = classifier.engines
    workers = engines.concurrent_calls
    work = partial(
        _embed, classifier=classifier, engine=engines.for_many if workers > 1 else engines.for_calls, known=known
    )
    rows: list[_Row] = []
    samples: list[Sample] = []
    unreadable: list[ImageError] = []
    try:
        with closing(map_batches(work, dataset.samples, _BATCH_SIZE, workers)) as batches:
            for done in batches:
                for sample, row in done:
                    on_image()
                    if isinstance(row, ImageError):
                        unreadable.append(row)
                    else:
                        rows.append(row)
                        samples.append(sample)
    finally:
        pictures = _gather(samples, rows)
        if any(row.digest not in known for row in rows):
            write_cached(name, pictures.to_bytes())
    return pictures, unreadable


def _known(name: str) -> dict[bytes, _Row]:
    content = read_cached(name)
    if content is None:
        return {}
    try:
        kept = Pictures.from_bytes(content)
    except BundleError:
        return {}
    digests = map(bytes, kept.digests)
    return {
        digest: _Row(digest, row, look) for digest, row, look in zip(digests, kept.embeddings, kept.hashes, strict=True)
    }


def _embed(
    batch: Iterable[Sample], classifier: Classifier, engine: Engine, known: dict[bytes, _Row]
) -> list[tuple[Sample, _Row | ImageError]]:
    results: list[tuple[Sample, _Row | ImageError]] = []
    new: list[tuple[int, bytes, NDArray[np.uint8]]] = []
    tensors = []
    for sample in batch:
        try:
            data = sample.read()
            digest = hashlib.sha256(data).digest()[:DIGEST_BYTES]
            row = known.get(digest)
            if row is not None:
                results.append((sample, row))
                continue
            rgb = classifier.read_image(data)
        except ImageError as error:
            results.append((sample, ImageError(sample.name, error.reason)))
            continue
        new.append((len(results), digest, look_of(rgb)))
        results.append((sample, ImageError(sample.name, "")))  # until the network has run
        tensors.append(preprocess(rgb, classifier.bundle.preprocessing))
    if tensors:
        embeddings = np.clip(engine.run(np.stack(tensors), "embedding"), 0, np.finfo(np.float16).max).astype(np.float16)
        for (index, digest, look), embedding in zip(new, embeddings, strict=True):
            results[index] = results[index][0], _Row(digest, embedding, look)
    return results


def _gather(samples: list[Sample], rows: list[_Row]) -> Pictures:
    return Pictures(
        tuple(sample.name for sample in samples),
        np.array([sample.label for sample in samples], np.int64),
        np.array([row.embedding for row in rows], np.float16).reshape(-1, EMBEDDING_SIZE),
        np.frombuffer(b"".join(row.digest for row in rows), np.uint8).reshape(-1, DIGEST_BYTES),
        np.array([row.look for row in rows], np.uint8).reshape(-1, HASH_BYTES),
    )


def look_of(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (32,) uint8, a hash of how a picture looks: is a place brighter than its left neighbour, at 16 x 16 of
    them (the difference hash of N. Krawetz, 2013, of 256 bits)."""
    small = cv2.resize(rgb, (17, 16), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return np.packbits(grey[:, 1:] > grey[:, :-1])

"""Pictures -> their embeddings, and hashes of their looks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from .._utils.cache import cache_key
from .._utils.parallel import map_batches
from ..engines.base import Engine
from ..errors import BundleError, ImageError
from ..images.transform import preprocess
from ..model import LoadedModel
from .index import Index
from .layout import DIGEST_BYTES, Embeddings

_BATCH_SIZE = 8


class Picture(Protocol):
    """A picture that can be read."""

    @property
    def name(self) -> str: ...

    def read(self) -> bytes:
        """Return the encoded picture, or raise an ``ImageError``."""

    def stamp(self) -> tuple[int, int]:
        """Return size and time of the file, which tell whether it has changed; raises as ``read`` does."""


def identity_of(model: LoadedModel) -> str:
    """Return what tells apart models whose embeddings cannot be compared."""
    bundle, precision = model.bundle, model.engines.for_calls.options.precision
    return cache_key(bundle.model_hash(bundle.source_precision(precision)), precision, bundle.preprocessing)


@dataclass(frozen=True)
class Row:
    digest: bytes
    embedding: Embeddings
    look: bytes
    computed: bool = True


def embed_all(
    pictures: Sequence[Picture], model: LoadedModel, earlier: Index | None, on_picture: Callable[[], object]
) -> Iterator[Row | ImageError]:
    """Yield the rows of pictures in order, several threads ahead."""
    known = {} if earlier is None else {bytes(digest): row for row, digest in enumerate(earlier.digests)}

    def find(digest: bytes) -> Row | None:
        row = known.get(digest)
        if row is None or earlier is None:
            return None
        return Row(digest, earlier.taken(slice(row, row + 1))[0], earlier.hashes[row].tobytes(), computed=False)

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
    batch: Iterable[Picture], model: LoadedModel, engine: Engine, find: Callable[[bytes], Row | None]
) -> list[Row | ImageError]:
    results: list[Row | ImageError] = []
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
            results[place] = Row(digest, embedding, look)
    return results


def look_of(rgb: NDArray[np.uint8]) -> bytes:
    """Return 32 bytes, a hash of how a picture looks: is a place brighter than its left neighbour, at 16 x 16 of them
    (the difference hash of N. Krawetz, 2013, of 256 bits)."""
    small = cv2.resize(rgb, (17, 16), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()

"""Approximate search for indexes of more than a million pictures, by faiss: pictures in lists around cluster centres.

The structure is made of an index when it is first asked for, and kept in the cache folder by the index's content. The
rows that it finds are compared exactly, so a wrong structure could miss pictures, and never give one a wrong score.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._utils.cache import cache_key, place_in_cache
from ..errors import EngineUnavailableError
from ..network.architecture import EMBEDDING_SIZE
from .index import BLOCK, Index
from .layout import Embeddings

_LISTS = 4
"""Times the root of the number of pictures."""
_SAMPLE = 50
"""Pictures for each list that the centres are found by."""
_ROUNDS = 10
_PROBED = 32
"""Lists that a search looks into."""
_MORE = 2
"""Times as many candidates as are wanted are compared exactly."""


class Lists:
    """The structure of one index."""

    def __init__(self, index: Index) -> None:
        """Open it, or make it.

        Raises:
            EngineUnavailableError: faiss is not installed.
        """
        try:
            import faiss
        except ModuleNotFoundError:
            raise EngineUnavailableError(
                "Approximate search needs faiss, which is not installed: pip install 'ghostzoo[search]', or search "
                "exactly."
            ) from None
        self._lists: Any
        place = place_in_cache(f"search/{cache_key(index.content, _LISTS, _SAMPLE, _ROUNDS, faiss.__version__)}.faiss")
        if place is not None and place.exists():
            self._lists = faiss.read_index(str(place), faiss.IO_FLAG_MMAP)
        else:
            self._lists = _make(index, faiss)
            if place is not None:
                _write(self._lists, place, faiss)
        self._lists.nprobe = _PROBED

    def candidates(self, queries: Embeddings, k: int) -> list[NDArray[np.int64]]:
        """Return rows that are near each of the queries, (Q, 1280) float32 of length 1."""
        _, found = self._lists.search(queries, _MORE * k)
        return [np.unique(rows[rows >= 0]) for rows in found]


def _make(index: Index, faiss: Any) -> Any:
    count = len(index)
    lists = max(1, round(_LISTS * count**0.5))
    centres = faiss.IndexFlatIP(EMBEDDING_SIZE)
    kind = faiss.ScalarQuantizer.QT_fp16
    made = faiss.IndexIVFScalarQuantizer(centres, EMBEDDING_SIZE, lists, kind, faiss.METRIC_INNER_PRODUCT)
    made.cp.niter, made.cp.min_points_per_centroid = _ROUNDS, 1
    chosen = np.random.default_rng(0).permutation(count)[: _SAMPLE * lists]
    made.train(index.unit(np.sort(chosen)))
    for start in range(0, count, BLOCK):
        made.add(index.unit(slice(start, start + BLOCK)))
    return made


def _write(made: Any, place: Path, faiss: Any) -> None:
    scratch = place.with_name(f".{place.name}-{secrets.token_hex(6)}.tmp")
    try:
        faiss.write_index(made, str(scratch))
        os.replace(scratch, place)  # noqa: PTH105
    finally:
        scratch.unlink(missing_ok=True)

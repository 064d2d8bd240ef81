"""Which pictures are nearly the same, by hashes of their looks and by their embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError

THRESHOLD = 0.9
"""Cosine from which on pictures that look somewhat alike are nearly the same; see the guide for the measurement."""
_SAME_LOOK = 24
"""Bits of the 256 in which the hashes of rescaled and recompressed copies differ at most. Of 60 photographs, no two
differ in fewer than 79."""
_NEAR_LOOK = 64
"""Bits in which those of pictures differ at most of which a tenth is cut off."""
_NOT_OPPOSED = 0.5
"""Cosine of pictures with nearly the same hash from which on they are the same."""
_PLAIN = 8
"""Bits: a hash with so few ones or zeros is that of a picture of one colour, and tells nothing of it."""
_SAME_PLAIN = 0.99
"""Cosine from which on pictures of one colour are the same."""
_TILE = 2048
_PAIRS = 4096
"""Pairs of which the embeddings are compared at once: 84 MB of float32."""

Rows = NDArray[np.int64]


def find_pairs(
    hashes: NDArray[np.uint8], embeddings: NDArray[Any], threshold: float | None = THRESHOLD
) -> Iterator[tuple[Rows, Rows]]:
    """Yield pairs of pictures that are nearly the same, as rows of the first and of the second, which come later.

    Args:
        hashes: (N, 32) of how they look.
        embeddings: (N, 1280) float32 or float16; of few pairs, a row is looked at.
        threshold: lowest cosine of pictures whose looks differ somewhat; ``None`` takes none of these.
    """
    plain = _are_plain(hashes)
    for first, second, bits in _candidates(hashes, _SAME_LOOK if threshold is None else _NEAR_LOOK):
        alike = _alike(embeddings, plain, first, second, bits, threshold)
        yield first[alike], second[alike]


def find_groups(
    digests: NDArray[np.uint8], hashes: NDArray[np.uint8], embeddings: NDArray[Any], threshold: float = THRESHOLD
) -> list[list[int]]:
    """Return the groups of pictures that are nearly the same, as rows, in the order of their first.

    Args:
        digests: (N, 16) of the files; equal ones are the same.
        hashes, embeddings, threshold: as for ``find_pairs``.

    Raises:
        OptionError: the threshold is no cosine.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise OptionError(f"threshold must be a cosine from 0 to 1, not {threshold!r}.")
    _, firsts, same = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    parents = firsts[same.ravel()]
    different, plain = np.sort(firsts), _are_plain(hashes)
    for first, second, bits in _candidates(hashes[different], _NEAR_LOOK):
        first, second = different[first], different[second]
        new = roots(parents, first) != roots(parents, second)  # many copies of one picture are pairs without end
        first, second, bits = first[new], second[new], bits[new]
        alike = _alike(embeddings, plain, first, second, bits, threshold)
        join(parents, first[alike], second[alike])
    found = roots(parents, np.arange(len(parents)))
    order = np.argsort(found, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(found[order])) + 1)
    return [group.tolist() for group in groups if len(group) > 1]


def join(parents: Rows, first: Rows, second: Rows) -> None:
    """Unite the groups of each pair; ``parents`` leads from each member of a group to its first one."""
    for pair in zip(first.tolist(), second.tolist(), strict=True):
        low, high = sorted(int(end) for end in roots(parents, np.array(pair)))
        parents[high] = low


def roots(parents: Rows, members: Rows) -> Rows:
    """Return the first members of the groups that ``members`` are in, and shorten the ways to them."""
    found = parents[members]
    while (parents[found] != found).any():
        found = parents[found]
    parents[members] = found
    return found


def _candidates(hashes: NDArray[np.uint8], most: int) -> Iterator[tuple[Rows, Rows, NDArray[np.int64]]]:
    """Yield all pairs of hashes that differ in at most ``most`` bits, and in how many, some at a time.

    The number of equal bits is a product of matrices of +1 and -1, which is fast.
    """
    size = 8 * hashes.shape[1]

    def signs(start: int) -> NDArray[np.float32]:
        return np.unpackbits(hashes[start : start + _TILE], axis=1).astype(np.float32) * 2 - 1

    for top in range(0, len(hashes), _TILE):
        rows = signs(top)
        for left in range(top, len(hashes), _TILE):
            product = rows @ signs(left).T
            first, second = np.nonzero(product >= size - 2 * most)
            bits = ((size - product[first, second]) / 2).astype(np.int64)
            first, second = first + top, second + left
            later = first < second
            first, second, bits = first[later], second[later], bits[later]
            for start in range(0, len(first), _PAIRS):
                part = slice(start, start + _PAIRS)
                yield first[part], second[part], bits[part]


def _are_plain(hashes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    ones = np.bitwise_count(hashes).sum(axis=1, dtype=np.int64)
    result: NDArray[np.bool_] = np.minimum(ones, 8 * hashes.shape[1] - ones) <= _PLAIN
    return result


def _alike(
    embeddings: NDArray[Any],
    plain: NDArray[np.bool_],
    first: Rows,
    second: Rows,
    bits: NDArray[np.int64],
    threshold: float | None,
) -> NDArray[np.bool_]:
    one, other = (np.asarray(embeddings[rows], np.float32) for rows in (first, second))
    product = np.einsum("ij,ij->i", one, other)
    norms = np.sqrt(np.einsum("ij,ij->i", one, one) * np.einsum("ij,ij->i", other, other))
    cosines = product / np.maximum(norms, np.finfo(np.float32).tiny)
    alike = (bits <= _SAME_LOOK) & (cosines >= _NOT_OPPOSED)
    if threshold is not None:
        alike |= cosines >= threshold
    result: NDArray[np.bool_] = np.where(plain[first] & plain[second], cosines >= _SAME_PLAIN, alike)
    return result

"""A linear classifier on embeddings by ridge regression, in numpy: in closed form, and cross-validated.

Each class is regressed as 0 or 1 on the embeddings, with an intercept; every class has the same weight, however many
pictures it has. How strongly the weights are held back is chosen by cross-validation, and so is the factor that turns
the regression's values into logits: with it, the softmax of pictures that were left out is as sure as it is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..predictions import softmax

STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-9, 2))
"""Strengths of the regularisation that are tried, as fractions of the embeddings' total variance."""
FOLDS = 5
_RANK_TOLERANCE = 1e-7
"""Of the largest eigenvalue; below it there is only the rounding of float32."""
_MAX_FACTOR = 1e4
_NEWTON_STEPS = 30

Matrix = NDArray[np.float32]
_Precise = NDArray[np.float64]


@dataclass(frozen=True)
class LinearHead:
    """logits = embedding @ weight.T + bias."""

    weight: Matrix
    """(classes, E)"""
    bias: Matrix
    """(classes,)"""

    def logits(self, embeddings: Matrix) -> Matrix:
        """(N, E) -> (N, classes), both float32."""
        result: Matrix = embeddings @ self.weight.T + self.bias
        return result


@dataclass(frozen=True)
class CrossValidated:
    """A head that was fitted to all pictures, and what it would have said of each if it had not seen it."""

    head: LinearHead
    probabilities: Matrix
    """(N, classes): by heads that were fitted to the other folds."""
    strength: float


def cross_validate(embeddings: Matrix, labels: NDArray[np.int64], folds: NDArray[np.int64]) -> CrossValidated:
    """Choose the regularisation and fit the head.

    Args:
        embeddings: (N, E) float32.
        labels: (N,) class indices; every class from 0 to the largest has a picture.
        folds: (N,) number of the fold that each picture is in.
    """
    count = int(labels.max()) + 1
    weights = 1 / np.bincount(labels)[labels] / count
    parts = [(folds == fold, _Ridge(embeddings, labels, weights, folds != fold)) for fold in np.unique(folds)]
    best = (np.inf, STRENGTHS[0], 1.0)
    probabilities: Matrix = np.empty((0, 0), np.float32)
    for strength in STRENGTHS:  # one after the other: the scores of many pictures and classes are large
        scores = np.empty((len(labels), count), np.float32)
        for out, ridge in parts:
            weight, bias = ridge.solve(strength)
            scores[out] = embeddings[out] @ weight.T.astype(np.float32) + bias
        factor = _best_factor(scores, labels, weights)
        shares = softmax(np.float32(factor) * scores)
        own = np.maximum(shares[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
        loss = -float(weights @ np.log(own))
        if loss < best[0]:
            best, probabilities = (loss, strength, factor), shares
    _, strength, factor = best
    weight, bias = _Ridge(embeddings, labels, weights, np.ones(len(labels), bool)).solve(strength)
    head = LinearHead((factor * weight).astype(np.float32), (factor * bias).astype(np.float32))
    return CrossValidated(head, probabilities, strength)


class _Ridge:
    """A weighted ridge regression of the classes on the embeddings of some pictures, decomposed for all strengths."""

    def __init__(
        self, embeddings: Matrix, labels: NDArray[np.int64], weights: _Precise, used: NDArray[np.bool_]
    ) -> None:
        rows, weights = embeddings[used], weights[used] / weights[used].sum()
        targets = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels[used]]
        self._means, self._target_means = weights @ rows, weights @ targets
        roots = np.sqrt(weights).astype(np.float32)[:, np.newaxis]
        rows -= self._means.astype(np.float32)
        rows *= roots
        targets -= self._target_means.astype(np.float32)
        targets *= roots
        self._values, self._basis = _principal_axes(rows)
        self._along = self._basis.T @ (rows.T @ targets)
        self._total = float(self._values.sum())

    def solve(self, strength: float) -> tuple[_Precise, _Precise]:
        """Return weight (classes, E) and bias (classes,)."""
        shrunk = self._along / (self._values + strength * self._total)[:, np.newaxis]
        weight = (self._basis @ shrunk).T
        return weight, self._target_means - weight @ self._means


def _principal_axes(centred: Matrix) -> tuple[_Precise, Matrix]:
    """Return the eigenvalues above rounding of ``centred.T @ centred``, and their axes (E, rank).

    The smaller of the two products of the matrix with itself is decomposed.
    """
    rows, columns = centred.shape
    product = centred @ centred.T if rows < columns else centred.T @ centred
    values, vectors = np.linalg.eigh(product.astype(np.float64))
    kept = values > _RANK_TOLERANCE * max(values[-1], np.finfo(np.float64).tiny)
    values, vectors = values[kept], vectors[:, kept]
    if rows < columns:
        vectors = centred.T @ (vectors / np.sqrt(values)).astype(np.float32)
    return values, vectors.astype(np.float32)


def _best_factor(scores: Matrix, labels: NDArray[np.int64], weights: _Precise) -> float:
    """Return the factor of ``scores`` with the smallest loss, which is convex in it, by Newton's method."""
    factor = 1.0
    own = scores[np.arange(len(labels)), labels]
    for _ in range(_NEWTON_STEPS):
        shares = softmax(np.float32(factor) * scores)
        expected = np.einsum("ij,ij->i", shares, scores)
        slope = float(weights @ (expected - own))
        curve = float(weights @ (np.einsum("ij,ij,ij->i", shares, scores, scores) - expected**2))
        step = slope / max(curve, 1e-9)
        # At most twice or half of it at a time: far from the end, the curve tells little.
        new = min(max(factor - step, factor / 2), 2 * factor, _MAX_FACTOR)
        if abs(new - factor) < 1e-4 * factor:
            break
        factor = new
    return factor


def make_folds(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a fold for each picture: each class is spread over all of them, and no group is divided.

    Args:
        labels: (N,) class indices.
        groups: (N,) pictures that are nearly the same have the same number.
    """
    rng = np.random.default_rng(0)
    folds = np.zeros(len(labels), np.int64)
    counts = np.zeros((int(labels.max()) + 1, FOLDS), np.int64)
    order = rng.permutation(len(labels))
    members: dict[int, list[int]] = {}
    for index in order.tolist():
        members.setdefault(int(groups[index]), []).append(index)
    for together in members.values():
        classes = labels[together]
        fold = int(np.lexsort((counts.sum(axis=0), counts[classes[0]]))[0])
        folds[together] = fold
        np.add.at(counts[:, fold], classes, 1)
    return folds

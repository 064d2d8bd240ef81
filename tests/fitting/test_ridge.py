"""The arithmetic of fitting, against what it is defined as."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostzoo.fitting.ridge import FOLDS, cross_validate, make_folds
from ghostzoo.predictions import softmax


def features(count: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    labels = np.arange(count) % classes
    centres = rng.normal(size=(classes, width))
    return np.maximum(centres[labels] + rng.normal(size=(count, width)), 0).astype(np.float32), labels


@pytest.mark.parametrize(("count", "width", "scale"), [(40, 120, 1), (300, 60, 1e-3)])
def test_the_head_solves_the_weighted_ridge_problem(count: int, width: int, scale: float) -> None:
    embeddings, labels = features(count, width, 3)
    embeddings *= np.float32(scale)
    keep = (labels > 0) | (np.arange(count) < count // 2)  # unbalanced
    check_head(embeddings[keep], labels[keep])


def test_pictures_that_differ_in_one_way_give_a_head() -> None:
    embeddings, labels = features(10, 1280, 2)
    check_head(embeddings[labels], labels)  # of each class the same picture again and again


def check_head(embeddings: np.ndarray, labels: np.ndarray) -> None:
    found = cross_validate(embeddings, labels, make_folds(labels, np.arange(len(labels))))
    classes, width = int(labels.max()) + 1, embeddings.shape[1]
    weights = 1 / np.bincount(labels)[labels] / classes
    targets = np.eye(classes)[labels]
    exact = embeddings.astype(np.float64)
    centred, wanted = exact - weights @ exact, targets - weights @ targets
    gram = centred.T @ (weights[:, None] * centred)
    strength = found.strength * np.trace(gram)
    solution = np.linalg.solve(gram + strength * np.eye(width), centred.T @ (weights[:, None] * wanted)).T
    factor = float((solution * found.head.weight).sum() / (solution**2).sum())
    assert factor > 1
    np.testing.assert_allclose(found.head.weight, factor * solution, atol=1e-3 * np.abs(factor * solution).max())
    bias = factor * (weights @ targets - solution @ (weights @ exact))
    np.testing.assert_allclose(found.head.bias, bias, atol=1e-3 * np.abs(bias).max() + 1e-4)


def test_left_out_pictures_are_as_sure_as_they_are_right() -> None:
    embeddings, labels = features(600, 40, 3)
    embeddings += np.random.default_rng(1).normal(0, 2, embeddings.shape).astype(np.float32)
    found = cross_validate(embeddings, labels, make_folds(labels, np.arange(len(labels))))
    right = (found.probabilities.argmax(axis=1) == labels).mean()
    assert 0.5 < right < 0.98
    assert abs(found.probabilities.max(axis=1).mean() - right) < 0.05
    new, their_labels = features(600, 40, 3)
    assert (softmax(found.head.logits(new)).argmax(axis=1) == their_labels).mean() > right


def test_embeddings_without_any_difference_give_equal_scores() -> None:
    labels = np.arange(12) % 3
    found = cross_validate(np.ones((12, 8), np.float32), labels, make_folds(labels, np.arange(12)))
    np.testing.assert_allclose(softmax(found.head.logits(np.ones((1, 8), np.float32))), 1 / 3, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=60))
def test_folds_divide_classes_and_never_copies(pictures: list[tuple[int, int]]) -> None:
    labels, groups = np.array(pictures).T
    folds = make_folds(labels, groups)
    for group in np.unique(groups):
        assert len(set(folds[groups == group])) == 1
    if len(set(groups)) == len(groups):
        for label in np.unique(labels):
            counts = np.bincount(folds[labels == label], minlength=FOLDS)
            assert counts.max() - counts.min() <= 1

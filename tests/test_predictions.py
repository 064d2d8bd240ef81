from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ghostzoo.labels import ClassLabel
from ghostzoo.predictions import Prediction, softmax, top_predictions

LABELS = [ClassLabel(name, None) for name in "abcdefgh"]


def test_softmax_survives_huge_logits() -> None:
    probabilities = softmax(np.array([[1e30, 0, -1e30], [1, 1, 1]], np.float32))
    np.testing.assert_allclose(probabilities, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    assert probabilities.dtype == np.float32


def test_top_predictions_are_sorted_and_labelled() -> None:
    scores = np.array([0.1, 0.05, 0.3, 0.02, 0.25, 0.08, 0.15, 0.05], np.float32)
    best = top_predictions(scores, LABELS, 3)
    assert [(p.index, p.label) for p in best] == [(2, "c"), (4, "e"), (6, "g")]
    assert best[0].score == pytest.approx(0.3)


@pytest.mark.parametrize("top_k", range(1, 10))
def test_equal_scores_come_in_the_order_of_their_index(top_k: int) -> None:
    best = top_predictions(np.full(8, 0.125, np.float32), LABELS, top_k)
    assert [p.index for p in best] == list(range(8))[:top_k]


@pytest.mark.parametrize("classes", [10, 40, 1000])  # NumPy partitions few and many values by different rules
def test_ties_are_as_a_stable_sort_of_all_classes_has_them(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = [ClassLabel(str(index)) for index in range(classes)]
    for levels in (2, 3, 7):
        scores = (rng.integers(0, levels, classes) / levels).astype(np.float32)
        expected = np.argsort(-scores, kind="stable").tolist()
        for top_k in (1, 2, 5, 9, classes - 1, classes):
            assert [p.index for p in top_predictions(scores, labels, top_k)] == expected[:top_k]


def test_a_network_that_gives_no_numbers_still_gives_classes() -> None:
    best = top_predictions(np.full(8, np.nan, np.float32), LABELS, 3)
    assert [p.index for p in best] == [0, 1, 2]
    assert all(np.isnan(p.score) for p in best)


def test_more_classes_than_there_are_gives_all() -> None:
    assert len(top_predictions(softmax(np.zeros((1, 8), np.float32))[0], LABELS, 50)) == 8
    assert len(top_predictions(np.ones(1, np.float32), LABELS[:1], 5)) == 1


def test_prediction_is_a_frozen_record() -> None:
    prediction = Prediction(281, "tabby, tabby cat", 0.7123456, "n02123045")
    assert prediction.to_dict() == {
        "index": 281,
        "label": "tabby, tabby cat",
        "score": 0.71235,
        "wnid": "n02123045",
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        prediction.score = 1.0  # type: ignore[misc]

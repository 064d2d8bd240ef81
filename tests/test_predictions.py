from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ghostzoo.errors import OptionError
from ghostzoo.labels import ClassLabel
from ghostzoo.predictions import Choice, Postprocessing, Prediction, check_min_score, sigmoid, softmax, top_predictions

LABELS = [ClassLabel(name, None) for name in "abcdefgh"]


def test_softmax_survives_huge_logits() -> None:
    probabilities = softmax(np.array([[1e30, 0, -1e30], [1, 1, 1]], np.float32))
    np.testing.assert_allclose(probabilities, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    assert probabilities.dtype == np.float32


def test_sigmoid_is_exact_and_survives_huge_logits() -> None:
    values = np.linspace(-80, 80, 4001)
    probabilities = sigmoid(values.astype(np.float32)[None])[0]
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-values.astype(np.float32).astype(float))), rtol=1e-6)
    assert probabilities.dtype == np.float32
    with np.errstate(all="raise", under="ignore"):
        assert sigmoid(np.array([[1e30, 0, -1e30]], np.float32)).tolist() == [[1, 0.5, 0]]


def test_top_predictions_are_sorted_and_labelled() -> None:
    scores = np.array([0.1, 0.05, 0.3, 0.02, 0.25, 0.08, 0.15, 0.05], np.float32)
    best = top_predictions(scores, LABELS, 3)
    assert [(p.index, p.label) for p in best] == [(2, "c"), (4, "e"), (6, "g")]
    assert best[0].score == pytest.approx(0.3)


@pytest.mark.parametrize("top_k", range(1, 10))
def test_equal_scores_come_in_the_order_of_their_index(top_k: int) -> None:
    best = top_predictions(np.full(8, 0.125, np.float32), LABELS, top_k)
    assert [p.index for p in best] == list(range(8))[:top_k]


@pytest.mark.parametrize("classes", [10, 100, 1000])  # few are sorted by Python
def test_ties_are_as_a_stable_sort_of_all_classes_has_them(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = [ClassLabel(str(index)) for index in range(classes)]
    for levels in (2, 3, 7):
        scores = (rng.integers(0, levels, classes) / levels).astype(np.float32)
        expected = np.argsort(-scores, kind="stable").tolist()
        for top_k in (1, 2, 5, 9, classes - 1, classes):
            assert [p.index for p in top_predictions(scores, labels, top_k)] == expected[:top_k]


@pytest.mark.parametrize("classes", [8, 200])
def test_a_network_that_gives_no_numbers_still_gives_classes(classes: int) -> None:
    best = top_predictions(np.full(classes, np.nan, np.float32), LABELS, 3)
    assert [p.index for p in best] == [0, 1, 2]
    assert all(np.isnan(p.score) for p in best)


def test_logits_below_zero_are_classes_too() -> None:
    best = top_predictions(np.array([-3, 1, -2, -5, -4, -6, -7, -8], np.float32), LABELS, 3)
    assert [each.index for each in best] == [1, 2, 0]


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


@pytest.mark.parametrize("others", [0, 200])
@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_the_lowest_score_counts_and_nothing_below_it(top_k: int, others: int) -> None:
    scores = np.array([0.1, 0.05, 0.3, 0.7, 0.25, 0.08, 0.3, 0.05, *[0.01] * others], np.float32)
    found = top_predictions(scores, LABELS, top_k, min_score=0.3)  # which is a little less in float32
    assert [p.index for p in found] == [3, 2, 6][:top_k]
    assert top_predictions(scores, LABELS, top_k, min_score=0.71) == []


def test_a_multi_label_model_gives_all_classes_from_one_half_on() -> None:
    logits = np.array([[3, -3, 0, 1, 2, 4, 5, 6], [-1] * 8], np.float32)
    several = Postprocessing(LABELS, multi_label=True)
    found, nothing = several.predictions(logits)
    assert [p.index for p in found] == [7, 6, 5, 0, 4, 3, 2]
    assert found[-1].score == 0.5
    assert nothing == []
    assert [[p.index for p in row] for row in several.predictions(logits, Choice(top_k=2))] == [[7, 6], []]
    assert [len(row) for row in several.predictions(logits, Choice(min_score=0))] == [8, 8]
    one = Postprocessing(LABELS)
    assert [len(row) for row in one.predictions(logits)] == [5, 5]
    assert [p.index for p in one.predictions(logits, Choice(min_score=0.2))[0]] == [7, 6]


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan, True, "0.5", [0.5]])
def test_the_lowest_score_is_a_number_from_0_to_1(value: object) -> None:
    with pytest.raises(OptionError, match="min_score must be a number from 0 to 1, not"):
        check_min_score(value)
    for good in (None, 0, 1, 0.5, np.float32(0.25)):
        check_min_score(good)

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostzoo.parity import ENGINE_TOLERANCE, EXACT_TOLERANCE, compare_logits

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 50)).astype(np.float32) * 10


def test_equal_logits_agree_exactly() -> None:
    agreement = compare_logits(LOGITS, LOGITS)
    assert agreement.max_difference == agreement.relative == 0
    assert agreement.scale == float(np.abs(LOGITS).max())
    assert agreement.top5_equal
    assert agreement.within(0)


def test_the_difference_is_measured_by_the_scale() -> None:
    other = LOGITS.copy()
    other[2, 7] += 0.01
    agreement = compare_logits(LOGITS, other)
    assert agreement.max_difference == pytest.approx(0.01, rel=1e-3)
    assert agreement.relative == pytest.approx(0.01 / float(np.abs(LOGITS).max()), rel=1e-3)
    assert not agreement.within(EXACT_TOLERANCE)
    assert agreement.within(1e-2)
    assert EXACT_TOLERANCE < ENGINE_TOLERANCE


def test_another_class_in_the_top_five_is_no_agreement() -> None:
    reference = np.zeros((1, 10))
    reference[0, :6] = [1000, 1000, 1000, 1000, 1.0, 0.5]
    candidate = reference.copy()
    candidate[0, 4:6] = [0.5, 1.0]
    agreement = compare_logits(reference, candidate)
    assert agreement.relative < 1e-3
    assert not agreement.top5_equal
    assert not agreement.within(1.0)


def test_ties_around_the_fifth_place_are_no_disagreement() -> None:
    reference = np.array([[9.0, 8, 7, 6, 5, 5, 5, 1, 0, 0]])
    for place in (4, 5, 6):
        candidate = reference.copy()
        candidate[0, place] += 4e-5
        assert compare_logits(reference, candidate).top5_equal
    candidate[0, 7] = 5.5
    assert not compare_logits(reference, candidate).top5_equal


def test_classes_nearer_than_the_tolerance_may_change_places() -> None:
    reference = np.array([[10.0, 8, 7, 6, 5, 5 - 1e-4, 0]])  # twice the tolerance of the scale is 2e-4
    candidate = np.array([[10.0, 8, 7, 6, 5 - 1e-4, 5, 0]])
    assert compare_logits(reference, candidate, tolerance=1e-5).top5_equal
    assert not compare_logits(reference, candidate, tolerance=1e-6).top5_equal


def test_order_within_the_five_is_free_the_best_is_not() -> None:
    reference = np.array([[9.0, 8, 7, 6, 5, 1, 0]])
    assert compare_logits(reference, np.array([[5.0, 6, 7, 8, 9, 1, 0]])).top5_equal
    assert not compare_logits(reference, np.array([[0.0, 8, 7, 6, 5, 1, 9]])).top5_equal


@pytest.mark.parametrize("classes", [1, 2, 4, 5])
def test_few_classes_are_all_among_the_five(classes: int) -> None:
    reference = np.arange(classes, dtype=np.float32)[None]
    assert compare_logits(reference, reference[:, ::-1]).top5_equal


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["reference", "candidate", "both"])
def test_what_is_not_finite_never_agrees(bad: float, side: str) -> None:
    broken = LOGITS.copy()
    broken[0, 3] = bad
    with np.errstate(invalid="ignore"):
        agreement = compare_logits(broken if side != "candidate" else LOGITS, broken if side != "reference" else LOGITS)
    assert not agreement.within(1e9)
    assert agreement.relative == math.inf
    str(agreement)


def test_zero_references() -> None:
    zero = np.zeros((1, 3))
    assert compare_logits(zero, zero).within(0)
    assert not compare_logits(zero, zero + 1e-9).within(1e-4)
    assert compare_logits(np.zeros((0, 3)), np.zeros((0, 3))).within(0)


@pytest.mark.parametrize("shape", [(4, 49), (3, 50), (50,), (4, 50, 1)])
def test_other_shapes_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_logits(LOGITS, np.zeros(shape))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.9))
def test_rounding_within_the_tolerance_always_agrees(seed: int, part: float) -> None:
    """Noise below the tolerance cannot make the five best differ, even where logits are close to each other."""
    rng = np.random.default_rng(seed)
    reference = np.round(rng.normal(size=(3, 40)), 2)
    noise = rng.uniform(-1, 1, reference.shape) * part * EXACT_TOLERANCE * np.abs(reference).max()
    assert compare_logits(reference, reference + noise).within(EXACT_TOLERANCE)


def test_the_report_is_json_and_readable() -> None:
    agreement = compare_logits(LOGITS, LOGITS)
    assert agreement.to_dict() == {"max_difference": 0.0, "scale": agreement.scale, "top5_equal": True}
    assert "top-5 equal" in str(agreement)

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from exporters.training.augmentation import one_hot, smooth
from exporters.training.distillation import make_targets, training_loss
from exporters.training.pretrained import jensen_shannon_divergence as divergence
from exporters.training.recipe import Recipe
from exporters.training.teacher import DescribedTeacher

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (torch.from_numpy(RNG.normal(0, 3, (6, 9)).astype(np.float32)) for _ in range(2))


def label_loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """As the trainer computes it."""
    return F.cross_entropy(logits, smooth(targets, smoothing))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_divergence_is_jensen_shannons(temperature: float) -> None:
    p, q = (softmax(logits.double().numpy() / temperature) for logits in (STUDENT, TEACHER))
    m = (p + q) / 2
    expected = (p * np.log(p / m) + q * np.log(q / m)).sum(axis=1).mean() / 2 * temperature**2
    assert float(divergence(STUDENT, TEACHER, temperature)) == pytest.approx(expected, rel=1e-5)


def test_divergence_is_zero_for_equals_and_log_2_for_opposites() -> None:
    assert float(divergence(STUDENT, STUDENT, 1.0)) == pytest.approx(0, abs=1e-7)
    assert float(divergence(STUDENT, STUDENT + 100, 1.0)) == pytest.approx(0, abs=1e-6)
    certain = torch.tensor([[50.0, -50.0]])
    assert float(divergence(certain, -certain, 1.0)) == pytest.approx(math.log(2))
    assert float(divergence(STUDENT, TEACHER, 1.0)) == pytest.approx(float(divergence(TEACHER, STUDENT, 1.0)))


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4, 1e10, 1e30])
def test_value_and_gradient_are_finite_at_extreme_logits(size: float) -> None:
    student = (STUDENT * size).requires_grad_()
    value = divergence(student, TEACHER.flip(0) * size, 1.0)
    value.backward()
    assert 0 <= float(value.detach()) <= math.log(2) + 1e-6
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())


def test_the_gradient_is_the_slope() -> None:
    student, teacher = STUDENT.double().requires_grad_(), TEACHER.double()
    assert torch.autograd.gradcheck(lambda logits: divergence(logits, teacher, 2.0), (student,))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_label_loss_is_the_cross_entropy(smoothing: float) -> None:
    labels = torch.tensor([0, 8, 3, 3, 5, 1])
    expected = F.cross_entropy(STUDENT, labels, label_smoothing=smoothing)
    torch.testing.assert_close(label_loss(STUDENT, one_hot(labels, 9), smoothing), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_images_without_a_label_add_nothing(smoothing: float) -> None:
    labels = torch.tensor([0, -1, 3, -1, -1, 1])
    logits = STUDENT.clone().requires_grad_()
    loss = label_loss(logits, one_hot(labels, 9), smoothing)
    known = labels >= 0
    expected = F.cross_entropy(STUDENT[known], labels[known], label_smoothing=smoothing, reduction="sum") / 6
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert logits.grad is not None
    assert bool((logits.grad[~known] == 0).all())
    assert bool((logits.grad[known] != 0).all())


def test_mixed_targets_are_smoothed_by_their_labelled_share() -> None:
    mixed = one_hot(torch.tensor([0, -1, 3, -1, 5, 1]), 9).lerp(one_hot(torch.tensor([2, 4, -1, -1, 8, 0]), 9), 0.25)
    labelled = mixed.double().sum(dim=1, keepdim=True)
    smoothed = mixed.double() * 0.9 + labelled * 0.1 / 9
    assert labelled.flatten().tolist() == [1, 0.25, 0.75, 0, 1, 1]
    expected = -(smoothed * F.log_softmax(STUDENT.double(), dim=1)).sum() / 6
    assert float(label_loss(STUDENT, mixed, 0.1)) == pytest.approx(float(expected), rel=1e-6)


def test_a_batch_without_labels_has_no_label_loss() -> None:
    logits = STUDENT.clone().requires_grad_()
    loss = label_loss(logits, one_hot(torch.full((6,), -1), 9), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert bool((logits.grad == 0).all())


def test_a_described_teachers_answers_are_mixed_as_the_labels_are() -> None:
    """Half of one image and half of the other: the loss is least for half of each answer."""
    chance = np.random.default_rng(3)
    probabilities = torch.from_numpy(chance.dirichlet(np.ones(9), 6).astype(np.float32))
    features = torch.from_numpy(chance.random((6, 1280)).astype(np.float16))
    teacher = DescribedTeacher("teacher.json", "", probabilities, features)
    order = np.array([4, 1, 0, 2, 3, 5])
    recipe = Recipe(distill_weight=2.0, feature_weight=3.0, label_smoothing=0.0)
    targets = make_targets(torch.full((6,), -1), order, 9, teacher)
    mixed = targets.lerp(targets.flip(0), 0.5)
    rows = torch.from_numpy(order)
    answer = (probabilities[rows] + probabilities[rows].flip(0)) / 2
    lengths = torch.nn.functional.normalize(features[rows].float(), dim=1)
    direction = lengths + lengths.flip(0)
    nothing = torch.zeros(6, 3, 8, 8)
    assert float(training_loss(nothing, mixed, answer.log(), direction, recipe, teacher)) == pytest.approx(0, abs=1e-5)
    turned = training_loss(nothing, mixed, answer.log(), -direction, recipe, teacher)
    assert float(turned) == pytest.approx(6, abs=1e-4)  # 3 x (1 - -1)
    other = training_loss(nothing, mixed, STUDENT, direction, recipe, teacher)
    assert float(other) == pytest.approx(2 * float(divergence(STUDENT, answer.log(), 1.0)), abs=1e-5)

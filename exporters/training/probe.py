"""Linear classifiers on a teacher's features, for the data's classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from ghostzoo.evaluation.datasets import UNLABELLED

_FOLDS = 5
_DECAY = 0.05  # of the linear classifier's weights: the best for 600 and for 8,000 thumbnails
_SCALE = 30.0  # length of a feature: LBFGS needs fewer steps than at 1
_STEPS = 60  # of LBFGS, at most


def fit_probabilities(features: NDArray[np.float16], labels: NDArray[np.int64], num_classes: int) -> Tensor:
    """Fit linear classifiers on the features and return what they say of each image.

    An image's probabilities come from a classifier that has not seen its label: otherwise they would repeat it. Those
    of unlabelled images are the mean of all the classifiers.

    Args:
        features: (images, D).
        labels: (images,), class indices or ``UNLABELLED``.
        num_classes: number of classes.

    Returns:
        (images, classes), float32.
    """
    x = torch.from_numpy(features.astype(np.float32))
    known = torch.from_numpy(np.flatnonzero(labels != UNLABELLED))
    x = F.normalize(x - x[known].mean(dim=0), dim=1) * _SCALE
    y = torch.from_numpy(labels)
    fold = torch.full((len(y),), -1)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(known)))
    fold[known[order]] = torch.arange(len(known)) % _FOLDS
    result = torch.zeros(len(y), num_classes)
    for number in range(_FOLDS):
        seen = (fold != number) & (y != UNLABELLED)
        answer = torch.softmax(_fit_linear(x[seen], y[seen], num_classes)(x), dim=1)
        result[fold == number] = answer[fold == number]
        result[fold < 0] += answer[fold < 0] / _FOLDS
    return result


def _fit_linear(x: Tensor, y: Tensor, num_classes: int) -> Callable[[Tensor], Tensor]:
    weight = torch.zeros(x.shape[1], num_classes, requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + _DECAY / 2 * (weight**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda values: (values @ weight + bias).detach()

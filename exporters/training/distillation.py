"""What is learnt of a batch: its labels and, with a teacher, that one's probabilities and features."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from exporters.training.augmentation import one_hot, smooth
from exporters.training.pretrained import Teacher, jensen_shannon_divergence
from exporters.training.recipe import Recipe
from exporters.training.teacher import DescribedTeacher

AnyTeacher = Teacher | DescribedTeacher

_SMALLEST_PROBABILITY = 1e-6  # of a teacher: 0 has no logarithm


def make_targets(labels: Tensor, indices: NDArray[np.int64], num_classes: int, teacher: AnyTeacher | None) -> Tensor:
    """Put side by side what is to be mixed in the same way as the images.

    Args:
        labels: (N,), class indices or ``UNLABELLED``.
        indices: (N,), which training images these are.
        num_classes: number of classes.
        teacher: a described one adds its probabilities (N, classes) and, where they are learnt, features (N, 1280).

    Returns:
        (N, classes and more), float32.
    """
    targets = one_hot(labels, num_classes)
    if not isinstance(teacher, DescribedTeacher):
        return targets
    probabilities, features = teacher.rows(indices, labels.device)
    return torch.cat([targets, probabilities, *([] if features is None else [F.normalize(features, dim=1)])], dim=1)


def training_loss(
    x: Tensor, targets: Tensor, logits: Tensor, embedding: Tensor, recipe: Recipe, teacher: AnyTeacher | None
) -> Tensor:
    """Return the cross-entropy of the labels and, with a teacher, the weighted distances from its answers.

    Args:
        x: the pixel values (N, 3, H, W), for a teacher that is asked about each crop.
        targets: of ``make_targets``, mixed.
        logits, embedding: the student's (N, classes) and (N, 1280), float32.
        recipe: the weights of the parts.
        teacher: the teacher.
    """
    count = logits.shape[1]
    loss = F.cross_entropy(logits, smooth(targets[:, :count], recipe.label_smoothing))
    if teacher is None:
        return loss
    if isinstance(teacher, DescribedTeacher):
        theirs = targets[:, count : 2 * count].clamp(min=_SMALLEST_PROBABILITY).log()
    else:
        theirs = teacher.logits(x)
    loss = loss + recipe.distill_weight * jensen_shannon_divergence(logits, theirs, recipe.distill_temperature)
    if recipe.feature_weight:
        cosine = F.cosine_similarity(embedding, targets[:, 2 * count :], dim=1)
        loss = loss + recipe.feature_weight * (1 - cosine).mean()
    return loss

"""What training makes small: cross-entropy with the labels, and the divergence from a teacher."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ghostzoo.evaluation.datasets import UNLABELLED


def soft_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Turn labels (N,) into targets (N, num_classes): a one for the class, nothing for ``UNLABELLED``."""
    known = (labels != UNLABELLED).float()[:, None]
    return F.one_hot(labels.clamp(min=0), num_classes).float() * known


def label_loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy, mean over all images; what has no label adds nothing.

    Args:
        logits: (N, classes).
        targets: (N, classes); a row's sum is the share of its image that has a label: all, nothing, or, where an image
            was mixed with an unlabelled one, a part.
        smoothing: share of the target that is spread over all classes.
    """
    labelled = targets.sum(dim=1, keepdim=True)
    targets = targets * (1 - smoothing) + labelled * (smoothing / logits.shape[1])
    return -(targets * F.log_softmax(logits, dim=1)).sum() / len(logits)


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Jensen-Shannon divergence of the softened answers, mean over the images, in nats.

    Args:
        student, teacher: logits (N, classes).
        temperature: logits are divided by it first; the result is multiplied by its square, so that the gradient keeps
            its size (Hinton et al., 2015).
    """
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    each = F.kl_div(log_mean, log_p, reduction="none", log_target=True) + F.kl_div(
        log_mean, log_q, reduction="none", log_target=True
    )
    return each.sum(dim=1).mean() * (temperature**2 / 2)

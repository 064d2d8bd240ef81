"""Mixup and cutmix: a batch mixed with itself in reverse order, and the targets with it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from exporters.training.recipe import Recipe


def mix(rng: np.random.Generator, x: Tensor, targets: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Mix images (N, 3, H, W) and their targets (N, classes).

    Where both mixup and cutmix are on, each batch gets one of them.
    """
    choices = [name for name in ("mixup", "cutmix") if getattr(recipe, name)]
    if not choices:
        return x, targets
    chosen = choices[int(rng.integers(len(choices)))]
    alpha = getattr(recipe, chosen)
    share = float(rng.beta(alpha, alpha))
    if chosen == "mixup":
        x = x.lerp(x.flip(0), 1 - share)
    else:
        x, share = _cut(rng, x, share)
    return x, targets.lerp(targets.flip(0), 1 - share)


def _cut(rng: np.random.Generator, x: Tensor, share: float) -> tuple[Tensor, float]:
    """Paste a random rectangle of ``1 - share`` of the area, clipped at the border; return the share that is kept."""
    height, width = x.shape[2:]
    half = math.sqrt(1 - share) / 2
    row, column = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(0, round(row - half * height)), min(height, round(row + half * height))
    left, right = max(0, round(column - half * width)), min(width, round(column + half * width))
    mixed = x.clone(memory_format=torch.preserve_format)
    mixed[:, :, top:bottom, left:right] = x.flip(0)[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)

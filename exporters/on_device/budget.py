"""A share of the time: a schedule that always ends, however fast the device is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import nn


class Budget:
    """Counts steps until the time is over; at a number of steps instead, a run does not depend on the device.

    Args:
        seconds: how long to go on.
        steps: how many steps to go on for; ``None``: as many as there is time for.
        warmup: share of it in which the learning rate rises.
    """

    def __init__(self, seconds: float, steps: int | None = None, *, warmup: float = 0.05) -> None:
        self.step, self.progress, self.started = 0, 0.0, 0.0
        self._seconds, self._steps, self._warmup = seconds, steps, warmup

    def __iter__(self) -> Iterator[int]:
        self.started = time.monotonic()
        while self.progress < 1:
            yield self.step
            self.step += 1
            elapsed = (time.monotonic() - self.started) / self._seconds
            self.progress = elapsed if self._steps is None else self.step / self._steps

    @property
    def rate(self) -> float:
        """The learning rate's share of its peak: a linear rise, then half a cosine to zero."""
        if self.progress < self._warmup:
            return (self.progress + 1e-3) / (self._warmup + 1e-3)
        after = (self.progress - self._warmup) / (1 - self._warmup)
        return 0.5 * (1 + math.cos(math.pi * min(after, 1.0)))


def set_rate(optimizer: torch.optim.Optimizer, peak: float, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = peak * share * group["share"]


def parameter_groups(network: nn.Module, decay: float, slow: dict[str, float]) -> list[dict[str, object]]:
    """Group parameters: no weight decay of vectors, and other learning rates for names that contain a part.

    Args:
        network: the network.
        decay: the weight decay of matrices and kernels.
        slow: part of a name -> share of the learning rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        share = next((value for part, value in slow.items() if part in name), 1.0)
        groups.setdefault((share, decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [
        {"params": found, "share": share, "weight_decay": weight_decay, "lr": 0.0}
        for (share, weight_decay), found in groups.items()
    ]

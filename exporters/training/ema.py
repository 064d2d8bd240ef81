"""Exponential moving average of a network's weights and batch-norm statistics."""

from __future__ import annotations

import copy

import torch

from exporters.torch_network import GhostNet


class MovingAverage:
    """Keeps ``average = decay * average + (1 - decay) * weights``, with a smaller decay in the first steps."""

    def __init__(self, network: GhostNet, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: GhostNet, steps: int) -> None:
        """Take in the weights after ``steps`` training steps, counted from 1."""
        decay = min(self._decay, (1 + steps) / (10 + steps))
        source = network.state_dict()
        for key, average in self.network.state_dict().items():
            if average.is_floating_point():
                average.lerp_(source[key], 1 - decay)
            else:
                average.copy_(source[key])

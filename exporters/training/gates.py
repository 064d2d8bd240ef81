"""Gates that have died: found on images, and drawn anew without a change of what the network computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from exporters.torch_network import GhostBottleneck, GhostNet, SqueezeExcite, draw_gate

_LIVING = 0.5
"""A gate is left as it is while at least this share of its squeezed units answers to some image."""


@torch.no_grad()
def reset_dead_gates(network: GhostNet, pixel_values: Tensor) -> list[str]:
    """Give every dead squeeze-and-excitation layer new weights, and return their names.

    The squeezed units have no batch-norm, and their inputs are all positive: a few large steps can push them below
    zero for every image. Their gates are constant from then on, and most of these end near zero. Such constants are
    moved into the convolution that follows, and the new gates start at one half for all images.

    Args:
        network: it is changed in place.
        pixel_values: (N, 3, H, W), images to see the gates with.
    """
    was_training = network.training
    network.eval()
    dead = []
    for name, block in network.named_modules():
        if not isinstance(block, GhostBottleneck) or not isinstance(block.se_block, SqueezeExcite):
            continue
        seen: list[Tensor] = []
        hook = block.se_block.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0]))
        network(pixel_values)
        hook.remove()
        if _reset(block.se_block, block.ghost_module_2.primary_conv._conv, seen[0].mean(dim=(2, 3))):
            dead.append(f"{name}.se_block")
    network.train(was_training)
    return dead


def _reset(gate: SqueezeExcite, following: nn.Conv2d, means: Tensor) -> bool:
    squeezed = torch.relu(gate.squeeze(means))
    if float((squeezed > 0).any(dim=0).float().mean()) >= _LIVING:
        return False
    constant = gate.excitation(squeezed).clamp(0, 1).mean(dim=0)
    draw_gate(gate)
    nn.init.zeros_(gate.excitation.weight)
    following.weight.mul_((constant / gate.excitation.bias).view(1, -1, 1, 1))
    return True

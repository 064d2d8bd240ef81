"""How gradients become steps: the optimiser of a recipe, with its parameter groups, and mixed precision."""

from __future__ import annotations

from typing import Any

import torch

from exporters.torch_network import GhostNet
from exporters.training.recipe import Recipe

RATE = "rate"
"""Key of a parameter group: its share of the learning rate."""

_HEAD = "fc_1."


def freeze_backbone(network: GhostNet) -> None:
    """Let only the last Linear layer learn."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name.startswith(_HEAD)


def make_optimizer(network: GhostNet, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimiser of the parameters that learn; weight decay spares batch-norm, as in the original."""
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": recipe.weight_decay, RATE: 1.0},
        {"params": [], "weight_decay": 0.0, RATE: 1.0},
        {"params": [], "weight_decay": recipe.weight_decay, RATE: recipe.gate_rate},
    ]
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[1 if "_batch_norm" in name else 2 if ".se_block." in name else 0]["params"].append(parameter)
    groups = [group for group in groups if group["params"]]
    # The learning rate is set before each step.
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.nesterov)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which the forward pass runs in ``precision``."""
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "float32")

"""Where a network's weights start from: drawn from the seed, or taken from official weights with a new head."""

from __future__ import annotations

from pathlib import Path

import torch

from exporters.torch_network import GhostNet, load_official, official_arrays
from ghostzoo.architecture import Architecture
from ghostzoo.params import read_weights

from .recipe import Recipe

HEAD = ("fc_1.weight", "fc_1.bias")


def start_network(recipe: Recipe, num_classes: int, init: Path | None) -> tuple[GhostNet, str]:
    """Make the network of a new run.

    Args:
        recipe: width, dropout and seed.
        num_classes: of the data.
        init: official weights of the same width; their head is kept if it has ``num_classes`` classes, and otherwise
            drawn anew.

    Returns:
        The network, and where its weights come from, in words.

    Raises:
        WeightsError: ``init`` cannot be read, or is of another width.
    """
    torch.manual_seed(recipe.seed)
    network = GhostNet(Architecture.of(recipe.width, num_classes), dropout=recipe.dropout)
    if init is None:
        return network, "random weights"
    arrays = dict(read_weights(init, width=recipe.width).arrays)
    keeps_head = arrays[HEAD[1]].shape == (num_classes,)
    if not keeps_head:
        own = official_arrays(network)
        arrays.update({key: own[key] for key in HEAD})
    load_official(network, arrays)
    return network, f"{init.name}, " + ("with its head" if keeps_head else f"with a new head for {num_classes} classes")

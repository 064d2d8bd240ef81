"""Where a network's weights start from: drawn from the seed, or taken from official weights with a new head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from exporters.torch_network import GhostNet, load_official, official_arrays
from exporters.training.recipe import Recipe
from ghostzoo.network.architecture import Architecture
from ghostzoo.weights.params import Weights, read_weights

HEAD = ("fc_1.weight", "fc_1.bias")


@dataclass(frozen=True)
class Start:
    """The network of a new run, and where its weights come from."""

    network: GhostNet
    description: str
    sha256: str
    """Of the weight file; empty where the weights were drawn."""


def start_network(recipe: Recipe, num_classes: int, init: Weights | None) -> Start:
    """Make the network of a new run.

    Args:
        recipe: width, dropout and seed.
        num_classes: of the data.
        init: official weights of that width; their head is kept if it has ``num_classes`` classes, and otherwise drawn
            anew.
    """
    torch.manual_seed(recipe.seed)
    network = GhostNet(Architecture.of(recipe.width, num_classes), dropout=recipe.dropout)
    if init is None:
        return Start(network, "random weights", "")
    arrays = dict(init.arrays)
    keeps_head = init.architecture.num_classes == num_classes
    if not keeps_head:
        own = official_arrays(network)
        arrays.update({key: own[key] for key in HEAD})
    load_official(network, arrays)
    head = "with its head" if keeps_head else f"with a new head for {num_classes} classes"
    return Start(network, f"{init.file_name}, {head}", init.sha256)


def choose_width(named: float | None, init: Path | None, default: float) -> float:
    """Return the width that was asked for, or else that of the starting weights, or else the default.

    Raises:
        WeightsError: ``init`` is needed and cannot be read.
    """
    if named is not None:
        return named
    return default if init is None else read_weights(init).architecture.width

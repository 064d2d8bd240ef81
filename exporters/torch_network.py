"""The networks of all families in PyTorch, for training, and their weights in the source's format.

Branches of training are apart, as the source trains them; ``ghostzoo`` adds them up where it builds a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from exporters.torch_modules import HALF_OPEN, ConvBN, ConvBranch, GhostBottleneck, Linear, SqueezeExcite
from ghostzoo._utils.files import write_atomically
from ghostzoo.network.architecture import Architecture
from ghostzoo.weights.params import dump_weights
from ghostzoo.weights.recognition import check_weights

DROPOUT = 0.2
"""Dropout on the embedding; the original's value."""

_LIVE_SHARE = 0.5
"""A gate is alive while at least this share of its squeezed units responds to some image."""

Arrays = Mapping[str, NDArray[np.float32]]


class GhostNet(nn.Module):
    """The classifier of any family: pixel values (N, 3, H, W) float32 -> logits (N, num_classes)."""

    def __init__(self, architecture: Architecture, *, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.architecture = architecture
        self.conv1 = ConvBN(architecture.stem, relu=True)
        for block in architecture.blocks:
            self.add_module(block.key, GhostBottleneck(block, hard_sigmoid=architecture.family.hard_sigmoid))
        self.conv_last = ConvBN(architecture.last, relu=True)
        self.fc_0 = ConvBN(architecture.hidden, relu=True)
        self.dropout = nn.Dropout(dropout)
        self.fc_1 = Linear(architecture.classifier)
        _initialise(self)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Return the embeddings (N, 1280): what the last Linear layer sees, before dropout."""
        x = self.conv1(pixel_values)
        for block in self.architecture.blocks:
            x = self.get_submodule(block.key)(x)
        x = self.conv_last(x).mean(dim=(2, 3), keepdim=True)
        embedding: Tensor = self.fc_0(x).flatten(1)
        return embedding

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.fc_1(self.dropout(self.embed(pixel_values)))
        return logits


def official_arrays(network: GhostNet) -> dict[str, NDArray[np.float32]]:
    """Return copies of the network's tensors as float32 arrays under the source's keys."""
    shapes = network.architecture.state_shapes()
    transposed = _transposed(network.architecture)
    found = {
        key: (value.t() if key in transposed else value).detach().cpu().numpy() for key, value in _tensors(network)
    }
    return {key: np.array(found[key], np.float32, order="C").reshape(shape) for key, shape in shapes.items()}


def load_official(network: GhostNet, arrays: Arrays) -> None:
    """Copy weights under the source's keys into ``network``.

    Raises:
        WeightsError: the tensors are not exactly those of the network's architecture.
    """
    check_weights(arrays, network.architecture)
    transposed = _transposed(network.architecture)
    with torch.no_grad():
        for key, value in _tensors(network):
            array = torch.from_numpy(np.array(arrays[key]))
            value.copy_(array.t() if key in transposed else array.reshape(value.shape))


def save_official(network: GhostNet, path: Path) -> None:
    """Write ``network`` in its source's format, which ``weights_suffix`` tells."""
    write_atomically(path, dump_weights(official_arrays(network), network.architecture))


def _tensors(network: GhostNet) -> Iterator[tuple[str, Tensor]]:
    for module in network.modules():
        if isinstance(module, ConvBranch | Linear):
            yield from module.tensors()


def _transposed(architecture: Architecture) -> set[str]:
    return {branch.weight for layer in architecture.layers() for branch in layer.branches if branch.transposed}


def make_average(network: GhostNet, decay: float) -> AveragedModel:
    """Make an exponential moving average of weights and batch-norm statistics, with a smaller decay at first."""

    def update(averages: list[Tensor], values: list[Tensor], updates: Tensor) -> None:
        count = int(updates)
        weight = 1 - min(decay, (1 + count) / (10 + count))
        for mean, value in zip(averages, values, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    average.eval().requires_grad_(False)
    average.update_parameters(network)  # the first update only copies
    return average


@torch.no_grad()
def reset_dead_gates(network: GhostNet, pixel_values: Tensor) -> list[str]:
    """Re-initialise every dead squeeze-and-excitation layer of ``network`` in place, and return their names.

    The squeezed units have no batch-norm, and their inputs are all positive: a few large steps can push them below
    zero for every image. Their gates are constant from then on, and most of these end near zero. The constants are
    folded into the convolution that follows, so the output does not change, and the new gates start half open.

    Args:
        network: the network.
        pixel_values: (N, 3, H, W), images to probe the gates with.
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
        if _reset_if_dead(block.se_block, block.ghost_module_2.primary_conv.convolutions(), seen[0].mean(dim=(2, 3))):
            dead.append(f"{name}.se_block")
    network.train(was_training)
    return dead


def _reset_if_dead(gate: SqueezeExcite, following: list[nn.Conv2d], means: Tensor) -> bool:
    squeezed = torch.relu(gate.squeeze(means))
    if float((squeezed > 0).any(dim=0).float().mean()) >= _LIVE_SHARE:
        return False
    constant = gate.gate(squeezed).mean(dim=0)
    _initialise_linear(gate.squeeze)
    # Drawn although overwritten: the random numbers that follow stay the same.
    _initialise_linear(gate.excitation)
    nn.init.constant_(gate.excitation.bias, gate.half_open)
    nn.init.zeros_(gate.excitation.weight)
    for convolution in following:
        convolution.weight.mul_((constant / HALF_OPEN).view(1, -1, 1, 1))
    return True


def _initialise(network: GhostNet) -> None:
    """Initialise convolutions as the original does (Kaiming normal over the fan-in), and gates half open.

    Each block starts as its shortcut alone (Goyal et al., 2017), which keeps the first epochs stable at higher learning
    rates.
    """
    gates = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            _initialise_linear(module)
        elif isinstance(module, SqueezeExcite):
            gates.append(module)
        elif isinstance(module, nn.BatchNorm2d) and _ends_block(name, network.architecture):
            nn.init.zeros_(module.weight)
    for gate in gates:
        nn.init.constant_(gate.excitation.bias, gate.half_open)


def _ends_block(name: str, architecture: Architecture) -> bool:
    """Whether a batch-norm scales the output of a block; RepGhostNet's comes from the cheap operation alone."""
    return (".ghost_module_2." if architecture.family.joins else ".ghost_module_2.cheap_operation.") in name


def _initialise_linear(module: nn.Linear) -> None:
    bound = module.in_features**-0.5
    nn.init.uniform_(module.weight, -bound, bound)
    nn.init.zeros_(module.bias)

"""The networks of all families in PyTorch, for training, and their weights in the source's format.

Branches of training are apart, as the source trains them; ``ghostzoo`` adds them up where it builds a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ghostzoo._utils.files import write_atomically
from ghostzoo.network import architecture as described
from ghostzoo.network.architecture import Architecture, Block
from ghostzoo.network.layers import BATCH_NORM_EPSILON, Branch, Layer
from ghostzoo.weights.params import dump_weights
from ghostzoo.weights.recognition import check_weights

DROPOUT = 0.2
"""Dropout on the embedding; the original's value."""

_BATCH_NORM_MOMENTUM = 0.1  # weight of the new batch; Paddle's 0.9 is that of the past
_HALF_OPEN = 0.5  # initial gate: in the middle of the range that has a gradient
_LIVE_SHARE = 0.5
"""A gate is alive while at least this share of its squeezed units responds to some image."""

Arrays = Mapping[str, NDArray[np.float32]]


class ConvBranch(nn.Module):
    """One of a layer's branches: a convolution, or the input as it is, and a batch-norm where there is one."""

    def __init__(self, layer: Layer, branch: Branch) -> None:
        super().__init__()
        self.branch = branch
        out_channels, depth, *_ = layer.shape
        groups = out_channels if layer.depthwise else 1
        height, width = branch.kernel
        self._conv = (
            nn.Conv2d(
                depth * groups,
                out_channels,
                branch.kernel,
                layer.stride,
                padding=(height // 2, width // 2),
                groups=groups,
                bias=branch.norm is None,
            )
            if branch.weight
            else nn.Identity()
        )
        self._batch_norm = (
            nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPSILON, momentum=_BATCH_NORM_MOMENTUM)
            if branch.norm is not None
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._batch_norm(self._conv(x))
        return y

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each of its tensors, with its key in the source's state dict."""
        branch, norm = self.branch, self._batch_norm
        if branch.weight:
            yield branch.weight, self._conv.weight
        if branch.norm is not None:
            statistics = norm.weight, norm.bias, norm.running_mean, norm.running_var
            yield from zip(branch.norm.keys, statistics, strict=True)
        if branch.bias:
            yield branch.bias, self._conv.bias


class ConvBN(ConvBranch):
    """A layer: the sum of its branches, and ReLU where ``relu`` is set."""

    def __init__(self, layer: Layer, *, relu: bool = False) -> None:
        super().__init__(layer, layer.branches[0])
        self.others = nn.ModuleList(ConvBranch(layer, branch) for branch in layer.branches[1:])
        self._relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        for other in self.others:
            y = y + other(x)
        return torch.relu(y) if self._relu else y

    def convolutions(self) -> list[nn.Conv2d]:
        branches: list[ConvBranch] = [self, *self.others]
        return [branch._conv for branch in branches if branch.branch.weight]


class Linear(nn.Linear):
    """A Linear layer that knows its keys."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.shape[1], layer.out_channels)
        self.branch = layer.branches[0]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield self.branch.weight, self.weight
        yield self.branch.bias, self.bias


class Attention(nn.Module):
    """Decoupled fully connected attention (DFC): a gate from the module's input at half its size."""

    def __init__(self, layers: tuple[Layer, Layer, Layer]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*map(ConvBN, layers))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gate = torch.sigmoid(self.layers(F.avg_pool2d(x, 2)))
        return y * F.interpolate(gate, size=y.shape[-2:], mode="nearest")


class GhostModule(nn.Module):
    """A 1x1 convolution and a cheap depthwise 3x3 one on top of it; both are the output, or the latter is."""

    def __init__(self, module: described.GhostModule) -> None:
        super().__init__()
        self.primary_conv = ConvBN(module.primary, relu=module.relu)
        self.cheap_operation = ConvBN(module.cheap, relu=module.relu)
        self.attention = Attention(module.attention) if module.attention is not None else None
        self.joins = module.joins

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary_conv(x)
        y: Tensor = self.cheap_operation(primary)
        if self.joins:
            y = torch.cat([primary, y], dim=1)
        return y if self.attention is None else self.attention(x, y)


class SqueezeExcite(nn.Module):
    """Gate channels by their global means; the gate is a clip to [0, 1] in PaddleClas, elsewhere a hard-sigmoid."""

    def __init__(self, layers: tuple[Layer, Layer], *, hard_sigmoid: bool) -> None:
        super().__init__()
        self.squeeze, self.excitation = map(Linear, layers)
        self._hard_sigmoid = hard_sigmoid
        self.half_open = 0.0 if hard_sigmoid else _HALF_OPEN
        """The bias at which the gate is half open."""

    def gate(self, squeezed: Tensor) -> Tensor:
        y: Tensor = self.excitation(squeezed)
        return F.hardsigmoid(y) if self._hard_sigmoid else y.clamp(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(torch.relu(self.squeeze(x.mean(dim=(2, 3)))))
        return x * gate[:, :, None, None]


class GhostBottleneck(nn.Module):
    """Ghost module, depthwise convolution at stride 2, optional squeeze-and-excitation, ghost module; shortcut."""

    def __init__(self, block: Block, *, hard_sigmoid: bool) -> None:
        super().__init__()
        self.ghost_module_1 = GhostModule(block.ghost1)
        self.depthwise_conv = ConvBN(block.depthwise) if block.depthwise is not None else nn.Identity()
        self.se_block = SqueezeExcite(block.gate, hard_sigmoid=hard_sigmoid) if block.gate else nn.Identity()
        self.ghost_module_2 = GhostModule(block.ghost2)
        self._has_shortcut_convs = block.shortcut is not None
        if block.shortcut is not None:
            self.shortcut_depthwise, self.shortcut_conv = map(ConvBN, block.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.ghost_module_2(self.se_block(self.depthwise_conv(self.ghost_module_1(x))))
        return y + (self.shortcut_conv(self.shortcut_depthwise(x)) if self._has_shortcut_convs else x)


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
        convolution.weight.mul_((constant / _HALF_OPEN).view(1, -1, 1, 1))
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

"""GhostNet in PyTorch, for training, and its weights in the official format.

Submodules are named as in the official state dict, so only two things differ: the names of the batch-norm statistics,
and Linear weights, which Paddle stores as (in, out).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ghostzoo._utils.files import write_atomically
from ghostzoo.network.architecture import EMBEDDING_SIZE, Architecture, Block
from ghostzoo.network.layers import BATCH_NORM_EPSILON
from ghostzoo.weights.params import dump_weights
from ghostzoo.weights.recognition import check_weights

DROPOUT = 0.2
"""Dropout on the embedding; the original's value."""

_BATCH_NORM_MOMENTUM = 0.1  # weight of the new batch; Paddle's 0.9 is that of the past
_HALF_OPEN = 0.5  # initial gate: in the middle of the range that has a gradient
_LIVE_SHARE = 0.5
"""A gate is alive while at least this share of its squeezed units responds to some image."""
_STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}

Arrays = Mapping[str, NDArray[np.float32]]


class ConvBN(nn.Module):
    """Convolution without bias, batch-norm, and ReLU where ``relu`` is set."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = False
    ) -> None:
        super().__init__()
        self._conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        )
        self._batch_norm = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPSILON, momentum=_BATCH_NORM_MOMENTUM)
        self._relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self._batch_norm(self._conv(x))
        return torch.relu(x) if self._relu else x


class GhostModule(nn.Module):
    """Half of the output from a 1x1 convolution, the other half from a cheap depthwise 3x3 one on top of it."""

    def __init__(self, in_channels: int, out_channels: int, *, relu: bool) -> None:
        super().__init__()
        half = out_channels // 2
        self.primary_conv = ConvBN(in_channels, half, 1, relu=relu)
        self.cheap_operation = ConvBN(half, half, 3, groups=half, relu=relu)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary_conv(x)
        return torch.cat([primary, self.cheap_operation(primary)], dim=1)


class SqueezeExcite(nn.Module):
    """Gate channels by their global means; the gate is a clip to [0, 1], as in PaddleClas, not a hard-sigmoid."""

    def __init__(self, channels: int, middle: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, middle)
        self.excitation = nn.Linear(middle, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.excitation(torch.relu(self.squeeze(x.mean(dim=(2, 3))))).clamp(0, 1)
        return x * gate[:, :, None, None]


class GhostBottleneck(nn.Module):
    """Ghost module, depthwise convolution at stride 2, optional squeeze-and-excitation, ghost module; shortcut."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        hidden, out, stride = block.hidden_channels, block.out_channels, block.stride
        self.ghost_module_1 = GhostModule(block.in_channels, hidden, relu=True)
        self.depthwise_conv = (
            ConvBN(hidden, hidden, block.kernel, stride=stride, groups=hidden) if stride == 2 else nn.Identity()
        )
        self.se_block = SqueezeExcite(hidden, block.se_channels) if block.se_channels else nn.Identity()
        self.ghost_module_2 = GhostModule(hidden, out, relu=False)
        self._has_shortcut_convs = not block.has_identity_shortcut
        if self._has_shortcut_convs:
            self.shortcut_depthwise = ConvBN(
                block.in_channels, block.in_channels, block.kernel, stride=stride, groups=block.in_channels
            )
            self.shortcut_conv = ConvBN(block.in_channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.ghost_module_2(self.se_block(self.depthwise_conv(self.ghost_module_1(x))))
        return y + (self.shortcut_conv(self.shortcut_depthwise(x)) if self._has_shortcut_convs else x)


class GhostNet(nn.Module):
    """The classifier: pixel values (N, 3, H, W) float32 -> logits (N, num_classes)."""

    def __init__(self, architecture: Architecture, *, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.architecture = architecture
        self.conv1 = ConvBN(3, architecture.stem_channels, 3, stride=2, relu=True)
        for block in architecture.blocks:
            self.add_module(block.key, GhostBottleneck(block))
        self.conv_last = ConvBN(architecture.blocks[-1].out_channels, architecture.last_channels, 1, relu=True)
        self.fc_0 = ConvBN(architecture.last_channels, EMBEDDING_SIZE, 1, relu=True)
        self.dropout = nn.Dropout(dropout)
        self.fc_1 = nn.Linear(EMBEDDING_SIZE, architecture.num_classes)
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
    """Return copies of the network's tensors as float32 arrays under the official keys."""
    state = network.state_dict()
    linears = _linear_weights(network)
    return {
        _official_key(key): np.array(
            (value.t() if key in linears else value).detach().cpu().numpy(), np.float32, order="C"
        )
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def load_official(network: GhostNet, arrays: Arrays) -> None:
    """Copy official weights into ``network``.

    Raises:
        WeightsError: the tensors are not exactly those of the network's architecture.
    """
    check_weights(arrays, network.architecture)
    linears = _linear_weights(network)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                array = torch.from_numpy(np.array(arrays[_official_key(key)]))
                value.copy_(array.t() if key in linears else array)


def save_official(network: GhostNet, path: Path) -> None:
    """Write ``network`` in the official format: a pickled dict of float32 arrays, as Paddle reads and writes it."""
    write_atomically(path, dump_weights(official_arrays(network), network.architecture))


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
        if _reset_if_dead(block.se_block, block.ghost_module_2.primary_conv._conv, seen[0].mean(dim=(2, 3))):
            dead.append(f"{name}.se_block")
    network.train(was_training)
    return dead


def _reset_if_dead(gate: SqueezeExcite, following: nn.Conv2d, means: Tensor) -> bool:
    squeezed = torch.relu(gate.squeeze(means))
    if float((squeezed > 0).any(dim=0).float().mean()) >= _LIVE_SHARE:
        return False
    constant = gate.excitation(squeezed).clamp(0, 1).mean(dim=0)
    _initialise_linear(gate.squeeze)
    # Drawn although overwritten: the random numbers that follow stay the same.
    _initialise_linear(gate.excitation)
    nn.init.constant_(gate.excitation.bias, _HALF_OPEN)
    nn.init.zeros_(gate.excitation.weight)
    following.weight.mul_((constant / gate.excitation.bias).view(1, -1, 1, 1))
    return True


def _official_key(key: str) -> str:
    stem, _, name = key.rpartition(".")
    return f"{stem}.{_STATISTICS.get(name, name)}"


def _linear_weights(network: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Linear)}


def _initialise(network: nn.Module) -> None:
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
        elif isinstance(module, nn.BatchNorm2d) and ".ghost_module_2." in name:
            nn.init.zeros_(module.weight)
    for gate in gates:
        nn.init.constant_(gate.excitation.bias, _HALF_OPEN)


def _initialise_linear(module: nn.Linear) -> None:
    bound = module.in_features**-0.5
    nn.init.uniform_(module.weight, -bound, bound)
    nn.init.zeros_(module.bias)

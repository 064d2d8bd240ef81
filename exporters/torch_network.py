"""GhostNet in PyTorch, for training: built from the architecture table, with the official weight keys.

Submodules bear the names of the official state dict, so that only two things differ between the two formats: the names
of the batch-norm statistics, and Linear weights, which Paddle stores as (in, out).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ghostzoo.network.architecture import BATCH_NORM_EPSILON, EMBEDDING_SIZE, Architecture, Block
from ghostzoo.weights.params import check_weights

DROPOUT = 0.2
"""Share of the embedding that is dropped in training; the original's value."""

# PyTorch's weight of the newest batch; Paddle's momentum of 0.9 is the weight of the past.
_BATCH_NORM_MOMENTUM = 0.1
_OPEN = 0.5  # a gate at first: in the middle of the range within which it learns
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
    """Half of the output by a 1x1 convolution, the other half from that by a cheap depthwise 3x3 one."""

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
    """Ghost module, depthwise convolution at stride 2, gate where the table has one, ghost module; and a shortcut."""

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
    """Copy the network's tensors out, float32 under the official keys."""
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


def _official_key(key: str) -> str:
    stem, _, name = key.rpartition(".")
    return f"{stem}.{_STATISTICS.get(name, name)}"


def _linear_weights(network: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Linear)}


def _initialise(network: nn.Module) -> None:
    """Draw convolutions as the original does (Kaiming normal over the fan-in); the gates start open.

    Each block starts as its shortcut alone (Goyal et al., 2017): the first epochs then stay stable at learning rates at
    which they otherwise do not.
    """
    gates = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            _draw_linear(module)
        elif isinstance(module, SqueezeExcite):
            gates.append(module)
        elif isinstance(module, nn.BatchNorm2d) and ".ghost_module_2." in name:
            nn.init.zeros_(module.weight)
    for gate in gates:
        nn.init.constant_(gate.excitation.bias, _OPEN)


def draw_gate(gate: SqueezeExcite) -> None:
    """Draw a gate's weights anew; it starts half open."""
    _draw_linear(gate.squeeze)
    _draw_linear(gate.excitation)
    nn.init.constant_(gate.excitation.bias, _OPEN)


def _draw_linear(module: nn.Linear) -> None:
    bound = module.in_features**-0.5
    nn.init.uniform_(module.weight, -bound, bound)
    nn.init.zeros_(module.bias)

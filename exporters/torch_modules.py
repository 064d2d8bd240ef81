"""Layers, ghost modules and bottlenecks of all families in PyTorch, each built from its description."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ghostzoo.network import blocks as described
from ghostzoo.network.layers import BATCH_NORM_EPSILON, Branch, Layer

HALF_OPEN = 0.5
"""Initial gate: in the middle of the range that has a gradient."""
_BATCH_NORM_MOMENTUM = 0.1  # weight of the new batch; Paddle's 0.9 is that of the past


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
        self.half_open = 0.0 if hard_sigmoid else HALF_OPEN
        """The bias at which the gate is half open."""

    def gate(self, squeezed: Tensor) -> Tensor:
        y: Tensor = self.excitation(squeezed)
        return F.hardsigmoid(y) if self._hard_sigmoid else y.clamp(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(torch.relu(self.squeeze(x.mean(dim=(2, 3)))))
        return x * gate[:, :, None, None]


class GhostBottleneck(nn.Module):
    """Ghost module, depthwise convolution at stride 2, optional squeeze-and-excitation, ghost module; shortcut."""

    def __init__(self, block: described.Block, *, hard_sigmoid: bool) -> None:
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

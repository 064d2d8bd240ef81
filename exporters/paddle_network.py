"""The original network in PaddlePaddle, built from the architecture table, with the official state-dict keys.

It runs under PaddlePaddle 2.6 and 3.x alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import nn
from paddle.nn import functional as F  # noqa: N812  # the name that Paddle's own code uses

from ghostzoo.network.architecture import EMBEDDING_SIZE, Architecture
from ghostzoo.network.blocks import Block
from ghostzoo.network.layers import BATCH_NORM_EPSILON


class _ConvBatchNorm(nn.Layer):
    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = False
    ) -> None:
        super().__init__()
        self._conv = nn.Conv2D(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias_attr=False
        )
        self._batch_norm = nn.BatchNorm(out_channels, act="relu" if relu else None, epsilon=BATCH_NORM_EPSILON)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self._batch_norm(self._conv(x))


class _PaddleSqueezeExcite(nn.Layer):
    def __init__(self, channels: int, middle: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, middle)
        self.excitation = nn.Linear(middle, channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
        gate = paddle.clip(self.excitation(F.relu(self.squeeze(pooled))), 0, 1)
        return x * gate.unsqueeze([2, 3])


class _PaddleGhostModule(nn.Layer):
    def __init__(self, in_channels: int, out_channels: int, relu: bool) -> None:
        super().__init__()
        half = out_channels // 2
        self.primary_conv = _ConvBatchNorm(in_channels, half, 1, relu=relu)
        self.cheap_operation = _ConvBatchNorm(half, half, 3, groups=half, relu=relu)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        primary = self.primary_conv(x)
        return paddle.concat([primary, self.cheap_operation(primary)], axis=1)


class _PaddleGhostBottleneck(nn.Layer):
    def __init__(self, block: Block) -> None:
        super().__init__()
        hidden, in_channels = block.hidden_channels, block.in_channels
        self._block = block
        self.ghost_module_1 = _PaddleGhostModule(in_channels, hidden, relu=True)
        if block.stride == 2:
            self.depthwise_conv = _ConvBatchNorm(hidden, hidden, block.kernel, stride=2, groups=hidden)
        if block.se_channels:
            self.se_block = _PaddleSqueezeExcite(hidden, block.se_channels)
        self.ghost_module_2 = _PaddleGhostModule(hidden, block.out_channels, relu=False)
        if not block.has_identity_shortcut:
            self.shortcut_depthwise = _ConvBatchNorm(
                in_channels, in_channels, block.kernel, stride=block.stride, groups=in_channels
            )
            self.shortcut_conv = _ConvBatchNorm(in_channels, block.out_channels, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.ghost_module_1(x)
        if self._block.stride == 2:
            y = self.depthwise_conv(y)
        if self._block.se_channels:
            y = self.se_block(y)
        y = self.ghost_module_2(y)
        if not self._block.has_identity_shortcut:
            x = self.shortcut_conv(self.shortcut_depthwise(x))
        return x + y


class PaddleGhostNet(nn.Layer):
    """Pixel values (N, 3, H, W) float32 -> logits (N, classes) and embedding (N, 1280)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.conv1 = _ConvBatchNorm(3, architecture.stem_channels, 3, stride=2, relu=True)
        self._blocks = []
        for block in architecture.blocks:
            self._blocks.append(self.add_sublayer(block.key, _PaddleGhostBottleneck(block)))
        self.conv_last = _ConvBatchNorm(architecture.blocks[-1].out_channels, architecture.last_channels, 1, relu=True)
        self.fc_0 = _ConvBatchNorm(architecture.last_channels, EMBEDDING_SIZE, 1, relu=True)
        self.fc_1 = nn.Linear(EMBEDDING_SIZE, architecture.num_classes)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        x = self.conv1(x)
        for block in self._blocks:
            x = block(x)
        x = F.adaptive_avg_pool2d(self.conv_last(x), 1)
        embedding = self.fc_0(x).flatten(1)
        return self.fc_1(embedding), embedding


def build_network(arrays: Mapping[str, NDArray[np.float32]], architecture: Architecture) -> PaddleGhostNet:
    """Return the network in evaluation mode, with the weights ``arrays``.

    Raises:
        ValueError: the keys of the network are not those of ``arrays``.
    """
    network = PaddleGhostNet(architecture)
    expected = set(network.state_dict())
    if expected != set(arrays):
        raise ValueError(f"the network's keys differ from the weights': {sorted(expected ^ set(arrays))[:10]}")
    # Copies, since Paddle rejects read-only views of a file.
    network.set_state_dict({key: np.array(array) for key, array in arrays.items()})
    network.eval()
    return network


def forward(
    network: PaddleGhostNet, pixel_values: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run Paddle's own forward pass: logits (N, classes) and embeddings (N, 1280) as float32."""
    with paddle.no_grad():
        logits, embedding = network(paddle.to_tensor(pixel_values))
    return logits.numpy(), embedding.numpy()

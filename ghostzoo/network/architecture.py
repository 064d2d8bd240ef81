"""The GhostNet architecture as data: the one table that graph, reference, Paddle and PyTorch networks are built from.

Pure Python. The rows, the rounding rule and the state-dict keys are those of PaddleClas
(``ppcls/arch/backbone/model_zoo/ghostnet.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

INPUT_NAME = "pixel_values"
LOGITS_NAME = "logits"
EMBEDDING_NAME = "embedding"
EMBEDDING_SIZE = 1280
"""Length of the vector before the last Linear layer; the same for every width."""

BATCH_NORM_EPSILON = 1e-5
"""Paddle's default, which the original network keeps."""

# kernel, expansion, output channels, squeeze-and-excitation, stride: at width 1.0
_ROWS: tuple[tuple[int, int, int, bool, int], ...] = (
    (3, 16, 16, False, 1),
    (3, 48, 24, False, 2),
    (3, 72, 24, False, 1),
    (5, 72, 40, True, 2),
    (5, 120, 40, True, 1),
    (3, 240, 80, False, 2),
    (3, 200, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 480, 112, True, 1),
    (3, 672, 112, True, 1),
    (5, 672, 160, True, 2),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
)
_STEM_CHANNELS = 16
_LAST_CHANNELS = 960
_DIVISOR = 4
_SE_REDUCTION = 4


def make_divisible(value: float, divisor: int = _DIVISOR) -> int:
    """Round to the nearest multiple of ``divisor``, never below it and never below 0.9 of ``value``."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class Block:
    """One ghost bottleneck. Channel counts are those after scaling by the width."""

    index: int
    kernel: int
    in_channels: int
    hidden_channels: int
    out_channels: int
    se_channels: int
    """Middle channels of squeeze-and-excitation; 0 where the block has none."""
    stride: int

    @property
    def key(self) -> str:
        """Prefix of this block's entries in the official state dict."""
        return f"_ghostbottleneck_{self.index}"

    @property
    def has_identity_shortcut(self) -> bool:
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True)
class Architecture:
    """A GhostNet of one width and class count."""

    width: float
    num_classes: int
    stem_channels: int
    last_channels: int
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, width: float, num_classes: int) -> Architecture:
        """Build the architecture of any ``width`` (> 0) and ``num_classes`` (>= 1)."""
        if not (math.isfinite(width) and width > 0):
            raise ValueError(f"width must be a positive number, not {width!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes!r}")
        stem = make_divisible(_STEM_CHANNELS * width)
        blocks = []
        in_channels = stem
        for index, (kernel, expansion, out, has_se, stride) in enumerate(_ROWS):
            hidden = make_divisible(expansion * width)
            block = Block(
                index=index,
                kernel=kernel,
                in_channels=in_channels,
                hidden_channels=hidden,
                out_channels=make_divisible(out * width),
                se_channels=hidden // _SE_REDUCTION if has_se else 0,
                stride=stride,
            )
            blocks.append(block)
            in_channels = block.out_channels
        return cls(width, num_classes, stem, make_divisible(_LAST_CHANNELS * width), tuple(blocks))

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in the official state dict, in the order of the forward pass."""
        return dict(self._state_shapes())

    def _state_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from _conv_bn("conv1", self.stem_channels, 3, 3)
        for block in self.blocks:
            key, kernel = block.key, block.kernel
            hidden, out = block.hidden_channels, block.out_channels
            yield from _ghost(f"{key}.ghost_module_1", block.in_channels, hidden)
            if block.stride == 2:
                yield from _conv_bn(f"{key}.depthwise_conv", hidden, 1, kernel)
            if block.se_channels:
                yield from _linear(f"{key}.se_block.squeeze", hidden, block.se_channels)
                yield from _linear(f"{key}.se_block.excitation", block.se_channels, hidden)
            yield from _ghost(f"{key}.ghost_module_2", hidden, out)
            if not block.has_identity_shortcut:
                yield from _conv_bn(f"{key}.shortcut_depthwise", block.in_channels, 1, kernel)
                yield from _conv_bn(f"{key}.shortcut_conv", out, block.in_channels, 1)
        yield from _conv_bn("conv_last", self.last_channels, self.blocks[-1].out_channels, 1)
        yield from _conv_bn("fc_0", EMBEDDING_SIZE, self.last_channels, 1)
        yield from _linear("fc_1", EMBEDDING_SIZE, self.num_classes)

    def count_parameters(self) -> int:
        """Trainable parameters: all of the state dict but the batch-norm statistics."""
        return sum(
            math.prod(shape) for key, shape in self._state_shapes() if not key.endswith(("._mean", "._variance"))
        )

    def count_multiply_adds(self, image_size: int) -> int:
        """Multiply-adds of all convolutions and Linear layers for one square image of ``image_size`` pixels a side.

        Batch-norm folds into the convolutions and counts nothing; the published figures do count it.
        """
        size = halve(image_size)
        total = 27 * self.stem_channels * size * size
        for block in self.blocks:
            hidden, out, taps = block.hidden_channels, block.out_channels, block.kernel**2
            total += _ghost_multiply_adds(block.in_channels, hidden) * size * size
            out_size = halve(size) if block.stride == 2 else size
            if block.stride == 2:
                total += hidden * taps * out_size * out_size
            total += 2 * hidden * block.se_channels
            total += _ghost_multiply_adds(hidden, out) * out_size * out_size
            if not block.has_identity_shortcut:
                total += block.in_channels * (taps + out) * out_size * out_size
            size = out_size
        total += self.blocks[-1].out_channels * self.last_channels * size * size
        return total + self.last_channels * EMBEDDING_SIZE + EMBEDDING_SIZE * self.num_classes


def halve(size: int) -> int:
    """Return the side in pixels after a convolution with stride 2."""
    return (size + 1) // 2


def _ghost_multiply_adds(in_channels: int, out_channels: int) -> int:
    """Multiply-adds a pixel: a 1x1 convolution to half of the output, a 3x3 depthwise one for the other half."""
    return out_channels // 2 * (in_channels + 9)


def _conv_bn(key: str, out: int, in_per_group: int, kernel: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{key}._conv.weight", (out, in_per_group, kernel, kernel)
    for name in ("weight", "bias", "_mean", "_variance"):
        yield f"{key}._batch_norm.{name}", (out,)


def _ghost(key: str, in_channels: int, out_channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    half = out_channels // 2
    yield from _conv_bn(f"{key}.primary_conv", half, in_channels, 1)
    yield from _conv_bn(f"{key}.cheap_operation", half, 1, 3)


def _linear(key: str, in_features: int, out_features: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    # Paddle stores Linear weights as (in, out).
    yield f"{key}.weight", (in_features, out_features)
    yield f"{key}.bias", (out_features,)

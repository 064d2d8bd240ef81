"""The architecture as data: the one description that graph, reference, Paddle and PyTorch networks are built from.

Pure Python. ``families`` has what is known of each family; here it becomes the layers of one width and class count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .blocks import Block, Layers, make_block
from .families import FAMILIES, LAST_CHANNELS, PADDLE_GHOSTNET, STEM_CHANNELS, Family, make_divisible
from .layers import Layer

INPUT_NAME = "pixel_values"
LOGITS_NAME = "logits"
EMBEDDING_NAME = "embedding"
EMBEDDING_SIZE = 1280
"""Length of the vector before the last Linear layer; the same for every family and width."""

_NAME = re.compile(r"([a-z]+(?:v[0-9])?)_([0-9]{3})")


@dataclass(frozen=True)
class Architecture:
    """A network of one family, width and class count."""

    family: Family
    width: float
    num_classes: int
    fused: bool
    """Whether the weights have the branches of their training added up already; without a meaning where there are none.
    """
    stem: Layer
    blocks: tuple[Block, ...]
    last: Layer
    hidden: Layer
    classifier: Layer

    @classmethod
    def of(
        cls, width: float, num_classes: int, family: Family = PADDLE_GHOSTNET, *, fused: bool = False
    ) -> Architecture:
        """Build the architecture of any ``width`` (> 0) and ``num_classes`` (>= 1)."""
        if not (math.isfinite(width) and width > 0):
            raise ValueError(f"width must be a positive number, not {width!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes!r}")
        layers = Layers(family, fused)
        stem = layers.dense("stem", 3, make_divisible(STEM_CHANNELS * width), kernel=3, stride=2)
        blocks = []
        in_channels = stem.out_channels
        for index in range(len(family.rows)):
            blocks.append(make_block(family, fused, index, width, in_channels))
            in_channels = blocks[-1].out_channels
        last = layers.dense("head.last", in_channels, make_divisible(LAST_CHANNELS * width))
        hidden = layers.dense("head.hidden", last.out_channels, EMBEDDING_SIZE)
        classifier = layers.linear("head.logits", EMBEDDING_SIZE, num_classes)
        return cls(family, width, num_classes, fused, stem, tuple(blocks), last, hidden, classifier)

    @classmethod
    def named(cls, name: str, num_classes: int = 1000) -> Architecture:
        """Build the architecture of timm's name: a family and 100 times the width, such as ``repghostnet_080``.

        Raises:
            ValueError: there is no such family or width.
        """
        match = _NAME.fullmatch(name)
        if match is None or match[1] not in FAMILIES or not int(match[2]):
            known = ", ".join(f"{family}_100" for family in FAMILIES if family != PADDLE_GHOSTNET.name)
            raise ValueError(f"there is no architecture named {name!r}; names are {known}, with other widths too")
        return cls.of(int(match[2]) / 100, num_classes, FAMILIES[match[1]])

    @property
    def stem_channels(self) -> int:
        return self.stem.out_channels

    @property
    def last_channels(self) -> int:
        return self.last.out_channels

    @property
    def smallest_image(self) -> int:
        """Smallest side of an image in pixels: attention halves what the blocks have halved five times."""
        return 1 if self.family.attention_from is None else 33

    @property
    def name(self) -> str:
        """timm's, such as ``repghostnet_080``."""
        return f"{self.family.name}_{round(100 * self.width):03d}"

    @property
    def title(self) -> str:
        """Family and width, for people."""
        return f"{self.family.title} of width {self.width:g}"

    @property
    def channels(self) -> tuple[int, ...]:
        """The channels of all blocks: widths that differ little may have the same."""
        return tuple(channels for block in self.blocks for channels in (block.hidden_channels, block.out_channels))

    def layers(self) -> Iterator[Layer]:
        """All layers in the order of the forward pass."""
        return (layer for layer, _ in self._sized_layers(1))

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor in the source's state dict, in the order of the forward pass."""
        return {key: shape for layer in self.layers() for key, shape in layer.state_shapes()}

    def count_parameters(self) -> int:
        """Trainable parameters, once the branches of a layer are one convolution; statistics are none."""
        return sum(layer.count_parameters() for layer in self.layers())

    def count_multiply_adds(self, image_size: int) -> int:
        """Multiply-adds of all convolutions and Linear layers for one square image of ``image_size`` pixels a side.

        Batch-norm folds into the convolutions and counts nothing; PaddleClas's published figures do count it.
        """
        return sum(layer.count_multiply_adds(size * size) for layer, size in self._sized_layers(image_size))

    def _sized_layers(self, image_size: int) -> Iterator[tuple[Layer, int]]:
        """Each layer, and the side of its output in pixels."""
        size = halve(image_size)
        yield self.stem, size
        for block in self.blocks:
            sizes = {1: size, 2: halve(size)}
            gate, attention = block.gate or (), block.ghost1.attention or ()
            for layer, divisor in block.layers():
                yield layer, 1 if layer in gate else size // 2 if layer in attention else sizes[divisor]
            size = sizes[block.stride]
        yield self.last, size
        yield self.hidden, 1
        yield self.classifier, 1


def halve(size: int) -> int:
    """Return the side in pixels after a convolution with stride 2."""
    return (size + 1) // 2

"""The architecture as data: the one description that graph, reference, Paddle and PyTorch networks are built from.

Pure Python. ``families`` has what is known of each family; here it becomes the layers of one width and class count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .families import FAMILIES, LAST_CHANNELS, PADDLE_GHOSTNET, STEM_CHANNELS, Family, Part, make_divisible
from .layers import Branch, Layer, Norm

INPUT_NAME = "pixel_values"
LOGITS_NAME = "logits"
EMBEDDING_NAME = "embedding"
EMBEDDING_SIZE = 1280
"""Length of the vector before the last Linear layer; the same for every family and width."""

_CHEAP_KERNEL = 3
_ATTENTION_KERNEL = 5
_NAME = re.compile(r"([a-z]+(?:v[0-9])?)_([0-9]{3})")


@dataclass(frozen=True)
class GhostModule:
    """A 1x1 convolution and a cheap depthwise one on top of it; the output is both, or in RepGhostNet the latter."""

    primary: Layer
    cheap: Layer
    joins: bool
    """Whether the output has both halves."""
    relu: bool
    """Whether a ReLU follows each of the two convolutions."""
    attention: tuple[Layer, Layer, Layer] | None = None
    """Decoupled fully connected attention: a 1x1 convolution and depthwise ones along rows and columns, on the module's
    input at half its size. The sigmoid of their result gates the module's output."""

    @property
    def out_channels(self) -> int:
        return self.primary.out_channels + self.cheap.out_channels if self.joins else self.cheap.out_channels


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
    ghost1: GhostModule
    depthwise: Layer | None
    """Only at stride 2."""
    gate: tuple[Layer, Layer] | None
    """Squeeze-and-excitation."""
    ghost2: GhostModule
    shortcut: tuple[Layer, Layer] | None
    """Depthwise and 1x1; ``None``: the block's input as it is."""

    @property
    def key(self) -> str:
        """Prefix of this block's entries in PaddleClas's state dict."""
        return PADDLE_GHOSTNET.keys.blocks[self.index].rstrip(".")

    @property
    def has_identity_shortcut(self) -> bool:
        return self.shortcut is None

    def layers(self) -> Iterator[tuple[Layer, int]]:
        """Its layers in the order of the forward pass, each with what its output's side is divided by."""
        after = self.stride
        yield self.ghost1.primary, 1
        yield self.ghost1.cheap, 1
        for layer in self.ghost1.attention or ():
            yield layer, 1
        if self.depthwise is not None:
            yield self.depthwise, after
        for layer in self.gate or ():
            yield layer, after
        yield self.ghost2.primary, after
        yield self.ghost2.cheap, after
        for layer in self.shortcut or ():
            yield layer, after


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
        layers = _Layers(family, fused)
        stem = layers.dense("stem", 3, make_divisible(STEM_CHANNELS * width), kernel=3, stride=2)
        blocks = []
        in_channels = stem.out_channels
        for index in range(len(family.rows)):
            blocks.append(_block(family, fused, index, width, in_channels))
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

    def with_classes(self, num_classes: int) -> Architecture:
        """The same network for another number of classes."""
        return Architecture.of(self.width, num_classes, self.family, fused=self.fused)

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


@dataclass(frozen=True)
class _Layers:
    """Makes a family's layers, with the keys that it has for them."""

    family: Family
    fused: bool
    block: int | None = None

    def dense(self, place: str, in_channels: int, out_channels: int, *, kernel: int = 1, stride: int = 1) -> Layer:
        return self._layer(place, (out_channels, in_channels, kernel, kernel), stride=stride)

    def depthwise(self, place: str, channels: int, height: int, width: int, stride: int = 1) -> Layer:
        return self._layer(place, (channels, 1, height, width), stride=stride, depthwise=True)

    def linear(self, place: str, in_channels: int, out_channels: int) -> Layer:
        shape = (in_channels, out_channels) if self.family.keys.transposed else (out_channels, in_channels)
        return self._layer(place, (out_channels, in_channels, 1, 1), stored=shape)

    def gate(self, in_channels: int, middle: int) -> tuple[Layer, Layer]:
        make = self.linear if self.family.keys.transposed else self.dense
        return make("se.squeeze", in_channels, middle), make("se.excite", middle, in_channels)

    def _layer(
        self,
        place: str,
        shape: tuple[int, int, int, int],
        *,
        stride: int = 1,
        depthwise: bool = False,
        stored: tuple[int, ...] | None = None,
    ) -> Layer:
        name, start = place, ""
        if self.block is not None:
            name, start = f"blocks.{self.block}.{place}", self.family.keys.blocks[self.block]
        parts = self.family.parts(place, self.fused)
        branches = tuple(self._branch(start, part, shape, stored) for part in parts)
        return Layer(name, shape, stride, depthwise, branches)

    def _branch(
        self, start: str, part: Part, shape: tuple[int, int, int, int], stored: tuple[int, ...] | None
    ) -> Branch:
        keys, norm, bias = self.family.keys, None, ""
        kernel = shape[2:] if part.kernel is None else (part.kernel, part.kernel)
        if part.norm:
            norm = Norm(*(f"{start}{part.norm}.{name}" for name in ("weight", "bias", keys.mean, keys.variance)))
        else:
            bias = f"{start}{part.weight}.bias"
        if not part.weight:
            return Branch("", (), (1, 1), norm)
        in_file = (*shape[:2], *kernel) if stored is None else stored
        return Branch(
            f"{start}{part.weight}.weight", in_file, kernel, norm, bias, stored is not None and keys.transposed
        )


def _block(family: Family, fused: bool, index: int, width: float, in_channels: int) -> Block:
    row, layers = family.rows[index], _Layers(family, fused, index)
    hidden, out = make_divisible(row.hidden * width), make_divisible(row.out * width)
    squeezed = family.squeezed(hidden) if row.has_gate else 0
    has_attention = family.attention_from is not None and index >= family.attention_from
    shortcut = None
    if row.stride != 1 or in_channels != out:
        shortcut = (
            layers.depthwise("shortcut.depthwise", in_channels, row.kernel, row.kernel, row.stride),
            layers.dense("shortcut.pointwise", in_channels, out),
        )
    return Block(
        index=index,
        kernel=row.kernel,
        in_channels=in_channels,
        hidden_channels=hidden,
        out_channels=out,
        se_channels=squeezed,
        stride=row.stride,
        ghost1=_ghost(layers, "ghost1", in_channels, hidden, has_attention),
        depthwise=layers.depthwise("depthwise", hidden, row.kernel, row.kernel, 2) if row.stride == 2 else None,
        gate=layers.gate(hidden, squeezed) if squeezed else None,
        ghost2=_ghost(layers, "ghost2", hidden, out, False),
        shortcut=shortcut,
    )


def _ghost(layers: _Layers, name: str, in_channels: int, out_channels: int, has_attention: bool) -> GhostModule:
    joins = layers.family.joins
    each = out_channels // 2 if joins else out_channels
    attention = None
    if has_attention:
        attention = (
            layers.dense("attention.pointwise", in_channels, out_channels),
            layers.depthwise("attention.horizontal", out_channels, 1, _ATTENTION_KERNEL),
            layers.depthwise("attention.vertical", out_channels, _ATTENTION_KERNEL, 1),
        )
    return GhostModule(
        primary=layers.dense(f"{name}.primary", in_channels, each),
        cheap=layers.depthwise(f"{name}.cheap", each, _CHEAP_KERNEL, _CHEAP_KERNEL),
        joins=joins,
        relu=name == "ghost1",
        attention=attention,
    )

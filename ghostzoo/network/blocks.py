"""Ghost modules and bottlenecks as data: the layers that each row of a family's table becomes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .families import PADDLE_GHOSTNET, Family, Part, make_divisible
from .layers import Branch, Layer, Norm

_CHEAP_KERNEL = 3
_ATTENTION_KERNEL = 5


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
class Layers:
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


def make_block(family: Family, fused: bool, index: int, width: float, in_channels: int) -> Block:
    """Make the block of one row, whose input has ``in_channels``."""
    row, layers = family.rows[index], Layers(family, fused, index)
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


def _ghost(layers: Layers, name: str, in_channels: int, out_channels: int, has_attention: bool) -> GhostModule:
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

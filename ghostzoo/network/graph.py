"""Weights -> ONNX graph, in the blocked layout that CPU engines run fastest.

Batch-norm is folded into the convolutions (in float64), and channels are padded so that every convolution has a
multiple of 8 of them, which keeps ONNX Runtime and OpenVINO in their blocked layouts throughout. A *layout* says which
logical channel each physical slot of a tensor holds; ``EMPTY`` slots carry zeros, and zero weights keep them exactly
zero through ReLU, depthwise convolutions, additions and gates. So the logits are those of the original, up to float32
rounding.

A wide tensor has the two halves of a ghost module's output, each padded on its own. Between blocks they are joined
where the image is small, which moves little data and lets the next convolution run once; where it is large they stay
two tensors, as they always do inside a block. A narrow tensor is computed as a whole, without any concatenation: see
``GraphBuilder.narrow_ghost``. RepGhostNet's modules have no halves, and each of its tensors is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from .._version import __version__
from ..errors import OptionError
from .architecture import EMBEDDING_NAME, EMBEDDING_SIZE, INPUT_NAME, LOGITS_NAME, Architecture, halve
from .blocks import Block, GhostModule
from .families import Family
from .graph_builder import EMPTY, GraphBuilder, Layout, Tensor, padded
from .layers import Arrays, Layer

_T = TypeVar("_T")

_CHANNEL_BLOCK = 8
_WIDE_CHANNEL_BLOCK = 16
"""The block of the widest layout, that of AVX-512, where half a block costs as much as a whole one."""
_CHEAP_PADDING = 1 / 32
"""Largest share of padding that costs less than reordering a tensor that does not fill its wide blocks."""
_NARROW_CHANNELS = _WIDE_CHANNEL_BLOCK
_LARGE_IMAGE = 56
"""From this side in pixels on, the halves of a wide tensor between blocks are not joined."""


def build_graph(
    arrays: Arrays, architecture: Architecture, *, model_name: str, weights_sha256: str, image_size: int
) -> bytes:
    """Write the ONNX graph of ``architecture`` with the weights ``arrays``; the same weights give the same bytes.

    The graph maps ``pixel_values`` (N, 3, image_size, image_size) float32, N dynamic, to ``logits`` (N, num_classes)
    and ``embedding`` (N, 1280), both float32.

    Args:
        arrays: tensors under the source's keys, as ``check_weights`` admits them.
        architecture: family, width and class count.
        model_name: goes into the graph's name and metadata.
        weights_sha256: hex digest of the weight file, for the metadata.
        image_size: side of the square input in pixels.

    Returns:
        The serialised ``onnx.ModelProto``.

    Raises:
        OptionError: the images are too small for this architecture.
    """
    if image_size < architecture.smallest_image:
        raise OptionError(
            f"{architecture.family.title} halves its image six times and needs at least {architecture.smallest_image} "
            f"pixels a side, not {image_size}."
        )
    builder = GraphBuilder(arrays)
    x = _stem(builder, architecture, Tensor(INPUT_NAME, np.arange(3), image_size))
    for block in architecture.blocks:
        x = _block(builder, block, x, architecture.family)
    _head(builder, architecture, x)
    metadata = {
        "ghostzoo.model": model_name,
        "ghostzoo.version": __version__,
        "ghostzoo.weights_sha256": weights_sha256,
        "ghostzoo.family": architecture.family.name,
        "ghostzoo.width": f"{architecture.width:g}",
    }
    return builder.serialize(model_name, architecture.num_classes, image_size, metadata)


def _stem(builder: GraphBuilder, architecture: Architecture, image: Tensor) -> list[Tensor]:
    layer, joins = architecture.stem, architecture.family.joins
    layouts = _layouts_between_blocks(layer.out_channels, halve(image.size), joins=joins)
    return [builder.convolve(name, layer, [image], layout, relu=True) for name, layout in _named("stem", layouts)]


def _block(builder: GraphBuilder, block: Block, x: list[Tensor], family: Family) -> list[Tensor]:
    """One block; its input and its output are each one tensor, or two that hold the halves."""
    name = f"blocks.{block.index}"
    parts = _ghost(builder, f"{name}.ghost1", block.ghost1, x)
    if block.ghost1.attention is not None:
        parts = builder.attend(f"{name}.attention", block.ghost1.attention, x, parts)
    if block.depthwise is not None:
        parts = _each_depthwise(builder, f"{name}.depthwise", block.depthwise, parts)
    if block.gate is not None:
        parts = builder.squeeze_excite(f"{name}.se", block.gate, parts, hard_sigmoid=family.hard_sigmoid)
    parts = _ghost(builder, f"{name}.ghost2", block.ghost2, parts)
    layouts = _layouts_between_blocks(block.out_channels, parts[0].size, joins=family.joins)
    if len(layouts) < len(parts):
        parts = [builder.concat(f"{name}.ghost2", parts)]
    shortcut = x
    if block.shortcut is not None:
        depthwise, pointwise = block.shortcut
        moved = _each_depthwise(builder, f"{name}.shortcut.depthwise", depthwise, x)
        shortcut = [
            builder.convolve(part, pointwise, moved, layout)
            for part, layout in _named(f"{name}.shortcut.pointwise", layouts)
        ]
    pairs = list(zip(parts, shortcut, strict=True))
    return [builder.node("Add", part, pair, pair[0].layout) for part, pair in _named(name, pairs)]


def _each_depthwise(builder: GraphBuilder, name: str, layer: Layer, parts: list[Tensor]) -> list[Tensor]:
    return [builder.depthwise(part, layer, x) for part, x in _named(name, parts)]


def _named(name: str, items: Sequence[_T]) -> Iterator[tuple[str, _T]]:
    """Pair each of one or two ``items`` with its own name: ``name`` itself if there is only one."""
    names = [name] if len(items) == 1 else [f"{name}.a", f"{name}.b"]
    return zip(names, items, strict=True)


def _ghost(builder: GraphBuilder, name: str, module: GhostModule, inputs: list[Tensor]) -> list[Tensor]:
    """A ghost module: its two halves, or one tensor that holds all of it where that is narrow, or has no halves."""
    if module.joins and module.out_channels <= _NARROW_CHANNELS:
        return [builder.narrow_ghost(name, module, inputs, _narrow_layout(module.out_channels))]
    layouts = _half_layouts(module.out_channels) if module.joins else (_whole_layout(module.out_channels),) * 2
    primary = builder.convolve(f"{name}.primary", module.primary, inputs, layouts[0], relu=module.relu)
    cheap = builder.depthwise(f"{name}.cheap", module.cheap, primary, layout=layouts[1], relu=module.relu)
    return [primary, cheap] if module.joins else [cheap]


def _head(builder: GraphBuilder, architecture: Architecture, parts: list[Tensor]) -> None:
    last = padded(np.arange(architecture.last_channels), _CHANNEL_BLOCK)
    x = builder.convolve("head.last", architecture.last, parts, last, relu=True)
    x = builder.pool("head.pool", x)
    x = builder.convolve("head.hidden", architecture.hidden, [x], np.arange(EMBEDDING_SIZE), relu=True)
    builder.node("Flatten", "head.embedding", [x], x.layout, output=EMBEDDING_NAME)
    # A convolution keeps the tensor in the blocked layout to the end.
    logits = builder.convolve("head.logits", architecture.classifier, [x], np.arange(architecture.num_classes))
    builder.node("Flatten", "head.logits.flat", [logits], logits.layout, output=LOGITS_NAME)


def _half_layouts(channels: int) -> tuple[Layout, Layout]:
    half = channels // 2
    first = padded(np.arange(half), _CHANNEL_BLOCK)
    wide = padded(first, _WIDE_CHANNEL_BLOCK)
    if len(wide) - len(first) <= _CHEAP_PADDING * len(first):
        first = wide
    return first, np.where(first == EMPTY, EMPTY, first + half)


def _layouts_between_blocks(channels: int, size: int, *, joins: bool) -> list[Layout]:
    """The layouts of a block's output, which its shortcut shares: that of one tensor, or those of its two halves."""
    if not joins:
        return [_whole_layout(channels)]
    if channels <= _NARROW_CHANNELS:
        return [_narrow_layout(channels)]
    halves = _half_layouts(channels)
    return list(halves) if size >= _LARGE_IMAGE else [np.concatenate(halves)]


def _narrow_layout(channels: int) -> Layout:
    return padded(np.arange(channels), _CHANNEL_BLOCK)


def _whole_layout(channels: int) -> Layout:
    """Of a network without halves, all of whose convolutions run in wide blocks then: with less padding they do not."""
    return padded(np.arange(channels), _WIDE_CHANNEL_BLOCK)

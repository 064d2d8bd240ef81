"""Official weights -> ONNX graph, in the blocked layout that CPU engines run fastest.

Batch-norm is folded into the convolutions (in float64), and channels are padded so that every convolution has a
multiple of 8 of them, which keeps ONNX Runtime and OpenVINO in their blocked layouts throughout. A *layout* says which
logical channel each physical slot of a tensor holds; ``EMPTY`` slots carry zeros, and zero weights keep them exactly
zero through ReLU, depthwise convolutions, additions and gates. So the logits are those of the original, up to float32
rounding.

A wide tensor between blocks has the two halves of a ghost module's output, each padded on its own, so that
concatenating the halves is the only data movement, and the hidden tensors inside a block are never concatenated at all.
A narrow one is computed as a whole, without any concatenation: see ``GraphBuilder.narrow_ghost``.
"""

from __future__ import annotations

import numpy as np

from .. import __version__
from .architecture import EMBEDDING_SIZE, Architecture, Block
from .graph_builder import EMBEDDING_NAME, EMPTY, INPUT_NAME, LOGITS_NAME, Arrays, GraphBuilder, Layout, Tensor, padded

_CHANNEL_BLOCK = 8
_NARROW_CHANNELS = 16
"""As many as fit one block of the widest layout, that of AVX-512; half a block would cost as much as a whole one."""


def build_graph(
    arrays: Arrays, architecture: Architecture, *, model_name: str, weights_sha256: str, image_size: int
) -> bytes:
    """Write the ONNX graph of ``architecture`` with the weights ``arrays``; the same weights give the same bytes.

    The graph maps ``pixel_values`` (N, 3, image_size, image_size) float32, N dynamic, to ``logits`` (N, num_classes)
    and ``embedding`` (N, 1280), both float32.

    Args:
        arrays: tensors under the official keys, as ``check_weights`` admits them.
        architecture: width and class count.
        model_name: goes into the graph's name and metadata.
        weights_sha256: hex digest of the weight file, for the metadata.
        image_size: side of the square input in pixels.

    Returns:
        The serialised ``onnx.ModelProto``.
    """
    builder = GraphBuilder(arrays)
    image = Tensor(INPUT_NAME, np.arange(3), image_size)
    stem = _joined_layout(architecture.stem_channels)
    x = builder.conv_bn("stem", "conv1", [image], stem, relu=True, stride=2)
    for block in architecture.blocks:
        x = _block(builder, block, x)
    _head(builder, architecture, x)
    metadata = {
        "ghostzoo.model": model_name,
        "ghostzoo.version": __version__,
        "ghostzoo.weights_sha256": weights_sha256,
        "ghostzoo.width": f"{architecture.width:g}",
    }
    return builder.serialize(model_name, architecture.num_classes, image_size, metadata)


def _block(builder: GraphBuilder, block: Block, x: Tensor) -> Tensor:
    name, key = f"blocks.{block.index}", block.key
    parts = _ghost(builder, f"{name}.ghost1", f"{key}.ghost_module_1", [x], block.hidden_channels, relu=True)
    if block.stride == 2:
        parts = [
            builder.depthwise_bn(f"{name}.depthwise.{side}", f"{key}.depthwise_conv", part, stride=2)
            for side, part in zip("ab", parts, strict=False)
        ]
    if block.se_channels:
        parts = builder.squeeze_excite(f"{name}.se", f"{key}.se_block", parts, block.se_channels)
    parts = _ghost(builder, f"{name}.ghost2", f"{key}.ghost_module_2", parts, block.out_channels)
    joined = parts[0] if len(parts) == 1 else builder.concat(f"{name}.ghost2", parts)
    shortcut = x
    if not block.has_identity_shortcut:
        depthwise = builder.depthwise_bn(
            f"{name}.shortcut.depthwise", f"{key}.shortcut_depthwise", x, stride=block.stride
        )
        shortcut = builder.conv_bn(f"{name}.shortcut.pointwise", f"{key}.shortcut_conv", [depthwise], joined.layout)
    return builder.node("Add", name, [joined, shortcut], joined.layout)


def _ghost(
    builder: GraphBuilder, name: str, key: str, inputs: list[Tensor], channels: int, *, relu: bool = False
) -> list[Tensor]:
    """A ghost module: its two halves, or one tensor that holds both where they are narrow."""
    if channels <= _NARROW_CHANNELS:
        return [builder.narrow_ghost(name, key, inputs, _joined_layout(channels), relu=relu)]
    layouts = _half_layouts(channels)
    primary = builder.conv_bn(f"{name}.primary", f"{key}.primary_conv", inputs, layouts[0], relu=relu)
    cheap = builder.depthwise_bn(f"{name}.cheap", f"{key}.cheap_operation", primary, layout=layouts[1], relu=relu)
    return [primary, cheap]


def _head(builder: GraphBuilder, architecture: Architecture, x: Tensor) -> None:
    last = padded(np.arange(architecture.last_channels), _CHANNEL_BLOCK)
    x = builder.conv_bn("head.last", "conv_last", [x], last, relu=True)
    x = builder.pool("head.pool", x)
    x = builder.conv_bn("head.hidden", "fc_0", [x], np.arange(EMBEDDING_SIZE), relu=True)
    builder.node("Flatten", "head.embedding", [x], x.layout, output=EMBEDDING_NAME)
    # As a convolution, so that the tensor stays in the blocked layout up to the very end.
    logits = builder.pointwise_linear("head.logits", "fc_1", x, np.arange(architecture.num_classes))
    builder.node("Flatten", "head.logits.flat", [logits], logits.layout, output=LOGITS_NAME)


def _half_layouts(channels: int) -> tuple[Layout, Layout]:
    half = channels // 2
    first = padded(np.arange(half), _CHANNEL_BLOCK)
    return first, np.where(first == EMPTY, EMPTY, first + half)


def _joined_layout(channels: int) -> Layout:
    """The layout of a block's output, and so of its shortcut, too."""
    if channels <= _NARROW_CHANNELS:
        return padded(np.arange(channels), _CHANNEL_BLOCK)
    return np.concatenate(_half_layouts(channels))

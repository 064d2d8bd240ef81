"""Official weights -> ONNX graph, in the blocked layout that CPU engines run fastest.

Batch-norm is folded into the convolutions (in float64), and channels are padded so that every convolution has a
multiple of 8 of them, which keeps ONNX Runtime and OpenVINO in their blocked layouts throughout. A *layout* says which
logical channel each physical slot of a tensor holds; ``EMPTY`` slots carry zeros, and zero weights keep them exactly
zero through ReLU, depthwise convolutions, additions and gates. So the logits are those of the original, up to float32
rounding.

A tensor between blocks has the two halves of a ghost module's output, each padded on its own, so that concatenating the
halves is the only data movement, and the hidden tensors inside a block are never concatenated at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .architecture import BATCH_NORM_EPSILON, EMBEDDING_SIZE, Architecture, Block

if TYPE_CHECKING:
    import onnx

INPUT_NAME = "pixel_values"
LOGITS_NAME = "logits"
EMBEDDING_NAME = "embedding"

# Opset 17 with IR 8 is what TensorRT 10, OpenVINO and every ONNX Runtime since 1.12 read.
OPSET_VERSION = 17
IR_VERSION = 8

EMPTY = -1
_CHANNEL_BLOCK = 8
_SE_CHANNEL_BLOCK = 4

Arrays = Mapping[str, NDArray[np.float32]]
Layout = NDArray[np.int64]


@dataclass(frozen=True)
class _Tensor:
    name: str
    layout: Layout


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
    builder = _Builder(arrays)
    x = builder.stem(_halves(architecture.stem_channels))
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


def _block(builder: _Builder, block: Block, x: _Tensor) -> _Tensor:
    name, key = f"blocks.{block.index}", block.key
    hidden = _half_layouts(block.hidden_channels)
    primary = builder.conv_bn(f"{name}.ghost1.primary", f"{key}.ghost_module_1.primary_conv", [x], hidden[0], relu=True)
    cheap = builder.depthwise_bn(
        f"{name}.ghost1.cheap", f"{key}.ghost_module_1.cheap_operation", primary, layout=hidden[1], relu=True
    )
    halves = [primary, cheap]
    if block.stride == 2:
        halves = [
            builder.depthwise_bn(f"{name}.depthwise.{side}", f"{key}.depthwise_conv", half, stride=2)
            for side, half in zip("ab", halves, strict=True)
        ]
    if block.se_channels:
        halves = builder.squeeze_excite(f"{name}.se", f"{key}.se_block", halves, block.se_channels)
    out = _half_layouts(block.out_channels)
    primary = builder.conv_bn(f"{name}.ghost2.primary", f"{key}.ghost_module_2.primary_conv", halves, out[0])
    cheap = builder.depthwise_bn(
        f"{name}.ghost2.cheap", f"{key}.ghost_module_2.cheap_operation", primary, layout=out[1]
    )
    joined = builder.concat(f"{name}.ghost2", [primary, cheap])
    shortcut = x
    if not block.has_identity_shortcut:
        depthwise = builder.depthwise_bn(
            f"{name}.shortcut.depthwise", f"{key}.shortcut_depthwise", x, stride=block.stride
        )
        shortcut = builder.conv_bn(f"{name}.shortcut.pointwise", f"{key}.shortcut_conv", [depthwise], joined.layout)
    return builder.node("Add", name, [joined.name, shortcut.name], joined.layout)


def _head(builder: _Builder, architecture: Architecture, x: _Tensor) -> None:
    last = _padded(np.arange(architecture.last_channels), _CHANNEL_BLOCK)
    x = builder.conv_bn("head.last", "conv_last", [x], last, relu=True)
    x = builder.node("GlobalAveragePool", "head.pool", [x.name], last)
    x = builder.conv_bn("head.hidden", "fc_0", [x], np.arange(EMBEDDING_SIZE), relu=True)
    builder.node("Flatten", "head.embedding", [x.name], x.layout, output=EMBEDDING_NAME)
    builder.linear("head.logits", "fc_1", EMBEDDING_NAME, LOGITS_NAME)


def _padded(channels: Layout, block: int) -> Layout:
    return np.concatenate([channels, np.full(-len(channels) % block, EMPTY)])


def _half_layouts(channels: int) -> tuple[Layout, Layout]:
    half = channels // 2
    first = _padded(np.arange(half), _CHANNEL_BLOCK)
    return first, np.where(first == EMPTY, EMPTY, first + half)


def _halves(channels: int) -> Layout:
    return np.concatenate(_half_layouts(channels))


def _place(values: NDArray[Any], layout: Layout, axis: int) -> NDArray[Any]:
    """Gather the logical channels of ``values`` along ``axis`` into physical slots, zero where a slot is empty."""
    placed = np.take(values, np.maximum(layout, 0), axis=axis)
    placed[(slice(None),) * axis + (layout == EMPTY,)] = 0
    return placed


class _Builder:
    """Collects nodes and initializers; one method an operation of the network."""

    def __init__(self, arrays: Arrays) -> None:
        import onnx.helper
        import onnx.numpy_helper

        self._helper = onnx.helper
        self._from_array = onnx.numpy_helper.from_array
        self._arrays = arrays
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def node(
        self,
        operator: str,
        name: str,
        inputs: list[str],
        layout: Layout,
        *,
        output: str | None = None,
        **attributes: Any,
    ) -> _Tensor:
        """Append a node; its one output bears the node's name unless ``output`` says otherwise."""
        output = output or name
        self._nodes.append(self._helper.make_node(operator, inputs, [output], name=name, **attributes))
        return _Tensor(output, layout)

    def concat(self, name: str, tensors: list[_Tensor]) -> _Tensor:
        layout = np.concatenate([tensor.layout for tensor in tensors])
        return self.node("Concat", f"{name}.concat", [tensor.name for tensor in tensors], layout, axis=1)

    def stem(self, layout: Layout) -> _Tensor:
        image = _Tensor(INPUT_NAME, np.arange(3))
        return self.conv_bn("stem", "conv1", [image], layout, relu=True, kernel=3, stride=2)

    def conv_bn(
        self,
        name: str,
        key: str,
        inputs: list[_Tensor],
        layout: Layout,
        *,
        relu: bool = False,
        kernel: int = 1,
        stride: int = 1,
    ) -> _Tensor:
        """Convolve the concatenation of ``inputs`` without concatenating: one convolution an input, then their sum."""
        weight, bias = self._folded(key)
        weight, bias = _place(weight, layout, 0), _place(bias, layout, 0)
        window = _window(kernel, stride)
        parts = []
        for position, tensor in enumerate(inputs):
            part = name if len(inputs) == 1 else f"{name}.{'ab'[position]}"
            operands = [tensor.name, self._constant(f"{part}.weight", _place(weight, tensor.layout, 1))]
            if position == 0:
                operands.append(self._constant(f"{part}.bias", bias))
            parts.append(self.node("Conv", part, operands, layout, **window))
        x = parts[0] if len(parts) == 1 else self.node("Add", name, [part.name for part in parts], layout)
        return self.node("Relu", f"{name}.relu", [x.name], layout) if relu else x

    def depthwise_bn(
        self,
        name: str,
        key: str,
        x: _Tensor,
        *,
        layout: Layout | None = None,
        stride: int = 1,
        relu: bool = False,
    ) -> _Tensor:
        """Convolve channel by channel; ``layout`` names the output's logical channels if not the input's."""
        weight, bias = self._folded(key)
        rows = x.layout  # a cheap operation's weights are counted from its own first channel, as its input is
        operands = [
            x.name,
            self._constant(f"{name}.weight", _place(weight, rows, 0)),
            self._constant(f"{name}.bias", _place(bias, rows, 0)),
        ]
        layout = rows if layout is None else layout
        y = self.node("Conv", name, operands, layout, group=len(rows), **_window(weight.shape[-1], stride))
        return self.node("Relu", f"{name}.relu", [y.name], layout) if relu else y

    def squeeze_excite(self, name: str, key: str, halves: list[_Tensor], channels: int) -> list[_Tensor]:
        """Gate each half by clip(excite(relu(squeeze(mean of both halves))), 0, 1): a clip, not a hard-sigmoid."""
        pooled = [
            self.node("GlobalAveragePool", f"{name}.pool.{side}", [half.name], half.layout)
            for side, half in zip("ab", halves, strict=True)
        ]
        joined = self.concat(f"{name}.pool", pooled)
        middle = _padded(np.arange(channels), _SE_CHANNEL_BLOCK)
        squeezed = self._pointwise_linear(f"{name}.squeeze", f"{key}.squeeze", joined, middle)
        squeezed = self.node("Relu", f"{name}.squeeze.relu", [squeezed.name], middle)
        limits = [self._constant("zero", np.float32(0)), self._constant("one", np.float32(1))]
        gated = []
        for side, half in zip("ab", halves, strict=True):
            excited = self._pointwise_linear(f"{name}.excite.{side}", f"{key}.excitation", squeezed, half.layout)
            gate = self.node("Clip", f"{name}.gate.{side}", [excited.name, *limits], half.layout)
            gated.append(self.node("Mul", f"{name}.{side}", [half.name, gate.name], half.layout))
        return gated

    def linear(self, name: str, key: str, x: str, output: str) -> None:
        operands = [
            x,
            self._constant(f"{name}.weight", self._arrays[f"{key}.weight"]),
            self._constant(f"{name}.bias", self._arrays[f"{key}.bias"]),
        ]
        self.node("Gemm", name, operands, np.arange(0), output=output)

    def _pointwise_linear(self, name: str, key: str, x: _Tensor, layout: Layout) -> _Tensor:
        """Apply a Linear layer to an (N, C, 1, 1) tensor as a 1x1 convolution; Paddle's weight is (in, out)."""
        weight = self._arrays[f"{key}.weight"].T[:, :, None, None]
        weight = _place(_place(weight, layout, 0), x.layout, 1)
        operands = [
            x.name,
            self._constant(f"{name}.weight", weight),
            self._constant(f"{name}.bias", _place(self._arrays[f"{key}.bias"], layout, 0)),
        ]
        return self.node("Conv", name, operands, layout, **_window(1, 1))

    def _folded(self, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight and bias of a convolution with its batch-norm folded in."""
        gamma, beta, mean, variance = (
            self._arrays[f"{key}._batch_norm.{name}"].astype(np.float64)
            for name in ("weight", "bias", "_mean", "_variance")
        )
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        weight = self._arrays[f"{key}._conv.weight"].astype(np.float64) * scale[:, None, None, None]
        return weight, beta - mean * scale

    def _constant(self, name: str, values: NDArray[Any] | np.float32) -> str:
        if name not in self._initializers:
            # Raw tensor bytes are little-endian on every machine.
            self._initializers[name] = self._from_array(
                np.ascontiguousarray(values, dtype="<f4").reshape(np.shape(values)), name
            )
        return name

    def serialize(self, model_name: str, num_classes: int, image_size: int, metadata: Mapping[str, str]) -> bytes:
        import onnx

        def value(name: str, *shape: int) -> onnx.ValueInfoProto:
            info: onnx.ValueInfoProto
            info = self._helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])
            return info

        graph = self._helper.make_graph(
            self._nodes,
            model_name,
            inputs=[value(INPUT_NAME, 3, image_size, image_size)],
            outputs=[value(LOGITS_NAME, num_classes), value(EMBEDDING_NAME, EMBEDDING_SIZE)],
            initializer=list(self._initializers.values()),
        )
        model = self._helper.make_model(
            graph,
            opset_imports=[self._helper.make_opsetid("", OPSET_VERSION)],
            ir_version=IR_VERSION,
            producer_name="ghostzoo",
            producer_version=__version__,
        )
        self._helper.set_model_props(model, dict(metadata))
        serialized: bytes = model.SerializeToString(deterministic=True)
        return serialized


def _window(kernel: int, stride: int) -> dict[str, Any]:
    return {
        "kernel_shape": [kernel, kernel],
        "strides": [stride, stride],
        "pads": [kernel // 2] * 4,
        "dilations": [1, 1],
    }

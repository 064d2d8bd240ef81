"""The operations of a graph, each as ONNX nodes with weights in the layout of their input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._version import __version__
from .architecture import EMBEDDING_NAME, EMBEDDING_SIZE, INPUT_NAME, LOGITS_NAME
from .blocks import GhostModule
from .layers import Arrays, Layer

if TYPE_CHECKING:
    import onnx


# Opset 17 with IR 8 is what TensorRT 10, OpenVINO and every ONNX Runtime since 1.12 read.
OPSET_VERSION = 17
IR_VERSION = 8

EMPTY = -1
_SE_CHANNEL_BLOCK = 8
_SIZE_MARGIN = 1 / 1024

Layout = NDArray[np.int64]


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph."""

    name: str
    layout: Layout
    """Logical channel of each physical slot, or ``EMPTY``."""
    size: int
    """Side in pixels."""


def padded(channels: Layout, block: int) -> Layout:
    """Append empty slots up to a multiple of ``block``."""
    return np.concatenate([channels, np.full(-len(channels) % block, EMPTY)])


def _place(values: NDArray[Any], layout: Layout, axis: int) -> NDArray[Any]:
    """Gather the logical channels of ``values`` along ``axis`` into physical slots, zero where a slot is empty."""
    placed = np.take(values, np.maximum(layout, 0), axis=axis)
    placed[(slice(None),) * axis + (layout == EMPTY,)] = 0
    return placed


def enlargement(size: int, result: int) -> float:
    """The factor that takes ``size`` pixels to ``result``, so that the source of pixel i is floor(i * size / result).

    Engines round the product of float32 numbers down, and 3 times 7 / 3 is less than 7 then. A slightly larger factor
    has the same sources.
    """
    return result / size if result % size == 0 else (result + _SIZE_MARGIN) / size


class GraphBuilder:
    """Collects nodes and initializers; has one method per operation of the network."""

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
        inputs: Sequence[Tensor | str],
        layout: Layout,
        *,
        output: str | None = None,
        size: int | None = None,
        **attributes: Any,
    ) -> Tensor:
        """Append a node; its single output has the node's name unless ``output`` is given.

        The output has the first input's size unless ``size`` is given.
        """
        output = output or name
        names = [item.name if isinstance(item, Tensor) else item for item in inputs]
        self._nodes.append(self._helper.make_node(operator, names, [output], name=name, **attributes))
        if size is None:
            size = next(item.size for item in inputs if isinstance(item, Tensor))
        return Tensor(output, layout, size)

    def concat(self, name: str, tensors: list[Tensor]) -> Tensor:
        layout = np.concatenate([tensor.layout for tensor in tensors])
        return self.node("Concat", f"{name}.concat", tensors, layout, axis=1)

    def pool(self, name: str, x: Tensor) -> Tensor:
        return self.node("GlobalAveragePool", name, [x], x.layout, size=1)

    def convolve(self, name: str, layer: Layer, inputs: list[Tensor], layout: Layout, *, relu: bool = False) -> Tensor:
        """Convolve the concatenation of ``inputs`` without concatenating: one convolution per input, then their sum."""
        weight, bias = layer.folded(self._arrays)
        weight, bias = _place(weight, layout, 0), _place(bias, layout, 0)
        parts = []
        for position, tensor in enumerate(inputs):
            part = name if len(inputs) == 1 else f"{name}.{'ab'[position]}"
            placed = _place(weight, tensor.layout, 1)
            parts.append(self._conv(part, tensor, placed, None if position else bias, layout, layer.stride))
        x = parts[0] if len(parts) == 1 else self.node("Add", name, parts, layout)
        return self._relu(name, x) if relu else x

    def depthwise(
        self, name: str, layer: Layer, x: Tensor, *, layout: Layout | None = None, relu: bool = False
    ) -> Tensor:
        """Convolve channel by channel; ``layout`` names the output's logical channels if not the input's."""
        weight, bias = layer.folded(self._arrays)
        # A cheap operation's weights are indexed from its own first channel, like its input.
        weight, bias = _place(weight, x.layout, 0), _place(bias, x.layout, 0)
        y = self._conv(name, x, weight, bias, x.layout if layout is None else layout, layer.stride, len(x.layout))
        return self._relu(name, y) if relu else y

    def narrow_ghost(self, name: str, module: GhostModule, inputs: list[Tensor], layout: Layout) -> Tensor:
        """A whole ghost module without concatenation: the primary half twice, then one depthwise convolution.

        It multiplies the first half by one and adds nothing, which is exact, and is the cheap operation on the second.
        What the first half costs is less than moving narrow halves into one tensor.
        """
        weight, bias = module.cheap.folded(self._arrays)
        half = len(weight)
        twice = np.where(layout == EMPTY, EMPTY, layout % half)
        primary = self.convolve(f"{name}.primary", module.primary, inputs, twice, relu=module.relu)
        unchanged = np.zeros_like(weight)
        unchanged[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = 1
        weight = _place(np.concatenate([unchanged, weight]), layout, 0)
        bias = _place(np.concatenate([np.zeros_like(bias), bias]), layout, 0)
        y = self._conv(f"{name}.cheap", primary, weight, bias, layout, group=len(layout))
        return self._relu(f"{name}.cheap", y) if module.relu else y

    def squeeze_excite(
        self, name: str, layers: tuple[Layer, Layer], parts: list[Tensor], *, hard_sigmoid: bool
    ) -> list[Tensor]:
        """Gate each part by clip(excite(relu(squeeze(mean of all parts))), 0, 1).

        A hard-sigmoid is that clip of y / 6 + 1 / 2, which goes into the weights.
        """
        squeeze, excite = layers
        sides = "ab"[: len(parts)]
        pooled = [self.pool(f"{name}.pool.{side}", part) for side, part in zip(sides, parts, strict=True)]
        joined = pooled[0] if len(pooled) == 1 else self.concat(f"{name}.pool", pooled)
        middle = padded(np.arange(squeeze.out_channels), _SE_CHANNEL_BLOCK)
        squeezed = self.convolve(f"{name}.squeeze", squeeze, [joined], middle, relu=True)
        limits = [self._constant("zero", np.float32(0)), self._constant("one", np.float32(1))]
        weight, bias = excite.folded(self._arrays)
        if hard_sigmoid:
            weight, bias = weight / 6, bias / 6 + 0.5
        weight = _place(weight, middle, 1)
        gated = []
        for side, part in zip(sides, parts, strict=True):
            placed = _place(weight, part.layout, 0), _place(bias, part.layout, 0)
            gate = self._conv(f"{name}.excite.{side}", squeezed, *placed, part.layout)
            gate = self.node("Clip", f"{name}.gate.{side}", [gate, *limits], part.layout)
            spread = self._spread(f"{name}.spread.{side}", gate, part)
            gated.append(self.node("Mul", f"{name}.{side}", [part, spread], part.layout))
        return gated

    def attend(
        self, name: str, layers: tuple[Layer, Layer, Layer], inputs: list[Tensor], parts: list[Tensor]
    ) -> list[Tensor]:
        """Gate each part by the sigmoid of three convolutions of ``inputs`` at half their size."""
        pointwise, horizontal, vertical = layers
        halved = [self._halve(f"{name}.pool.{side}", x) for side, x in zip("ab", inputs, strict=False)]
        gated = []
        for side, part in zip("ab", parts, strict=False):
            x = self.convolve(f"{name}.pointwise.{side}", pointwise, halved, part.layout)
            x = self.depthwise(f"{name}.horizontal.{side}", horizontal, x)
            x = self.depthwise(f"{name}.vertical.{side}", vertical, x)
            x = self.node("Sigmoid", f"{name}.gate.{side}", [x], part.layout)
            spread = self._spread(f"{name}.spread.{side}", x, part)
            gated.append(self.node("Mul", f"{name}.{side}", [part, spread], part.layout))
        return gated

    def _halve(self, name: str, x: Tensor) -> Tensor:
        sides: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
        return self.node("AveragePool", name, [x], x.layout, size=x.size // 2, **sides)

    def _spread(self, name: str, gate: Tensor, like: Tensor) -> Tensor:
        """Repeat the pixels of a gate to the size of ``like``.

        Of a 1x1 tensor the multiplication would do that by itself, but where the batch is fixed, ONNX Runtime
        multiplies tensors of equal shape in its blocked layout, and any others outside it.
        """
        factor = enlargement(gate.size, like.size)
        scales = self._constant(
            f"scales.{like.size}" if gate.size == 1 else f"scales.{gate.size}.{like.size}",
            np.array([1, 1, factor, factor], np.float32),
        )
        return self.node(
            "Resize",
            name,
            [gate, "", scales],
            gate.layout,
            size=like.size,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def _conv(
        self,
        name: str,
        x: Tensor,
        weight: NDArray[Any],
        bias: NDArray[Any] | None,
        layout: Layout,
        stride: int = 1,
        group: int = 1,
    ) -> Tensor:
        height, width = weight.shape[2:]
        operands: list[Tensor | str] = [x, self._constant(f"{name}.weight", weight)]
        if bias is not None:
            operands.append(self._constant(f"{name}.bias", bias))
        return self.node(
            "Conv",
            name,
            operands,
            layout,
            size=-(-x.size // stride),
            kernel_shape=[height, width],
            strides=[stride, stride],
            pads=[height // 2, width // 2] * 2,
            dilations=[1, 1],
            group=group,
        )

    def _relu(self, name: str, x: Tensor) -> Tensor:
        return self.node("Relu", f"{name}.relu", [x], x.layout)

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

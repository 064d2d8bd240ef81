"""LiteRT's file before LiteRT sees it: a GhostNet as ``python -m exporters export-edge`` writes it, or it is refused.

LiteRT maps the file and trusts it: an offset can point anywhere, a constant can be written to, a shape can ask for
gigabytes. ``tflite_file`` reads what it will follow; here the network is held against the limits of ``graph_check``, in
ONNX's terms. LiteRT has the channels last. What computes in int8 there has in the graph the shapes of float32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

from .architecture import EMBEDDING_NAME, EMBEDDING_SIZE, INPUT_NAME, LOGITS_NAME
from .graph_check import check_network
from .graph_file import FLOAT, MAX_RANK, Graph, Node, Value, Weight
from .tflite_file import FLOAT32, INT8, INT32, SAME, Network, Operator, Tensor
from .wire import RefusedGraphError, Span


def check_tflite(data: bytes, *, num_classes: int, image_size: int) -> None:
    """Check a network of LiteRT.

    Args:
        data: the file.
        num_classes: width of the logits.
        image_size: side of the square input in pixels.

    Raises:
        RefusedGraphError: it is no GhostNet, or damaged.
    """
    network = Network(data)
    translation = _Translation(network, data)
    shapes = check_network(translation.graph(num_classes, image_size), num_classes=num_classes, image_size=image_size)
    for number, tensor in enumerate(network.tensors):
        if tensor.data is None and number not in translation.padded and number not in translation.widened:
            shape = shapes.get(network.graph_name(number), (0,))
            if tensor.kind not in (FLOAT32, INT8) or tensor.shape != (1, *shape[2:], *shape[1:2]):
                raise _otherwise(tensor.name)


class _Translation:
    """The network in ONNX's terms."""

    def __init__(self, network: Network, data: bytes) -> None:
        self._network = network
        self._data = data
        self._unused = {number for number, tensor in enumerate(network.tensors) if tensor.data is not None}
        self._computed = {item for item in network.inputs if item not in self._unused}
        self._nodes: list[Node] = []
        self._weights: list[Weight] = []
        self.padded: dict[int, tuple[int, int]] = {}
        """Padded tensor -> what was padded, and by how many pixels on each side; ONNX's convolutions do that."""
        self.widened: set[int] = set()
        """Weights in float32 that are made of int8."""
        if any(network.tensors[item].kind != FLOAT32 for item in (*network.inputs, *network.outputs)):
            raise RefusedGraphError("takes or gives something other than float32")
        for operator in network.operators:
            _TRANSLATIONS[operator.kind](self, operator)
            self._check_kinds(operator)
            if operator.output in self._computed or network.tensors[operator.output].data is not None:
                raise RefusedGraphError(f"computes {network.tensors[operator.output].name!a}, which has values already")
            self._computed.add(operator.output)

    def graph(self, num_classes: int, image_size: int) -> Graph:
        outputs = ((LOGITS_NAME, num_classes), (EMBEDDING_NAME, EMBEDDING_SIZE))
        return Graph(
            tuple(self._nodes),
            tuple(self._weights),
            (Value(INPUT_NAME, FLOAT, ("batch", 3, image_size, image_size)),),
            tuple(Value(name, FLOAT, ("batch", width)) for name, width in outputs),
        )

    def _node(self, kind: str, operator: Operator, inputs: list[str], **attributes: Any) -> None:
        name = self._network.graph_name(operator.output)
        self._nodes.append(Node(name, kind, tuple(inputs), (name,), attributes))

    def _check_kinds(self, operator: Operator) -> None:
        """Whether all that is computed is float32, or all int8 where there are kernels for that."""
        if operator.kind in ("QUANTIZE", "DEQUANTIZE"):
            return
        tensors = [self._network.tensors[item] for item in (*operator.inputs, operator.output)]
        kinds = {tensor.kind for tensor in tensors if tensor.data is None}
        if kinds != {FLOAT32} and (kinds != {INT8} or operator.kind not in _IN_INT8):
            raise RefusedGraphError(f"has the operator {operator.kind} with types that it does not take")

    def quantize(self, operator: Operator) -> None:
        result = self._network.tensors[operator.output]
        if result.kind != INT8:
            raise _otherwise(result.name)
        self._node("QuantizeLinear", operator, [self._name(operator.inputs[0]), self._scale(operator)])

    def dequantize(self, operator: Operator) -> None:
        x = operator.inputs[0]
        tensor, result = self._network.tensors[x], self._network.tensors[operator.output]
        if tensor.kind != INT8 or result.kind != FLOAT32:
            raise _otherwise(result.name)
        if tensor.data is None:
            self._node("DequantizeLinear", operator, [self._name(x), self._scale(operator)])
            return
        self._take(x, INT8)
        if result.shape != tensor.shape or operator.output in self._network.outputs:
            raise _otherwise(result.name)
        self.widened.add(operator.output)
        self._unused.add(operator.output)

    def _scale(self, operator: Operator) -> str:
        scale = Weight(f"{self._network.graph_name(operator.output)} scale", FLOAT, (), None)
        self._weights.append(scale)
        return scale.name

    def rectify(self, operator: Operator) -> None:
        self._node("Relu", operator, [self._name(operator.inputs[0])])

    def sigmoid(self, operator: Operator) -> None:
        self._node("Sigmoid", operator, self._images(operator))

    def halve(self, operator: Operator) -> None:
        options = operator.options
        if options.get("padding", SAME) == SAME or options.get("activation", 0):
            raise RefusedGraphError("averages padded pixels")
        kernel = options.get("filter_h", 0), options.get("filter_w", 0)
        self._node("AveragePool", operator, self._images(operator), kernel_shape=kernel, strides=_strides(operator))

    def spread(self, operator: Operator) -> None:
        x, size = operator.inputs
        shape, result = self._network.tensors[x].shape, self._network.tensors[operator.output].shape
        if len(shape) != MAX_RANK or len(result) != MAX_RANK or self._ints(size, (2,)) != result[1:3]:
            raise RefusedGraphError("resizes to another size than it declares")
        if any(operator.options.values()):
            raise RefusedGraphError("resizes otherwise than to the nearest pixel above and to the left")
        # What is no whole factor is a little larger, so that it is rounded down to this size.
        sides = zip(shape[1:3], result[1:3], strict=True)
        factors = tuple(new / old if new % old == 0 else (new + 0.5) / old for old, new in sides)
        scales = Weight(f"{self._network.graph_name(size)} scales", FLOAT, (MAX_RANK,), (1.0, 1.0, *factors))
        self._weights.append(scales)
        self._node("Resize", operator, [self._name(x), "", scales.name])

    def add(self, operator: Operator) -> None:
        scales = [_scale_of(self._network.tensors[item]) for item in (*operator.inputs, operator.output)]
        if max(scales[:2]) > _MOST_SHRINKING * scales[2]:  # LiteRT ends the process
            raise RefusedGraphError("adds tensors whose scales are too far from that of their sum")
        self._node("Add", operator, self._images(operator))

    def multiply(self, operator: Operator) -> None:
        self._node("Mul", operator, self._images(operator))

    def join(self, operator: Operator) -> None:
        if operator.options.get("axis", 0) != MAX_RANK - 1:
            raise RefusedGraphError("joins tensors other than by channels")
        self._node("Concat", operator, self._images(operator), axis=1)

    def pool(self, operator: Operator) -> None:
        x, axes = operator.inputs
        if self._ints(axes, (2,)) != (1, 2) or operator.options.get("keep_dims", 0) != 1:
            raise RefusedGraphError("pools other than to the mean of all pixels")
        self._node("GlobalAveragePool", operator, [self._name(x)])

    def flatten(self, operator: Operator) -> None:
        x, shape = operator.inputs
        row = (-1, *self._network.tensors[operator.output].shape[1:])
        if self._ints(shape, (2,)) != row or operator.options.get("new_shape") != list(row):
            raise RefusedGraphError("reshapes tensors other than to one row an image")
        self._node("Flatten", operator, [self._name(x)])

    def pad(self, operator: Operator) -> None:
        x, amounts = operator.inputs
        by = self._ints(amounts, (MAX_RANK, 2))
        shape, padded = self._network.tensors[x].shape, self._network.tensors[operator.output]
        self._name(x)
        if len(set(by[2:6])) != 1 or by[:2] + by[6:] != (0, 0, 0, 0) or len(shape) != MAX_RANK:
            raise RefusedGraphError("pads other than by the same number of pixels on each side")
        images, height, width, channels = shape
        if padded.shape != (images, height + 2 * by[2], width + 2 * by[2], channels):
            raise _otherwise(padded.name)
        if operator.output in self._network.outputs:
            raise RefusedGraphError("gives a padded tensor")
        self.padded[operator.output] = x, by[2]

    def convolve(self, operator: Operator) -> None:
        x, weight, bias = operator.inputs
        options, shape = operator.options, self._network.tensors[weight].shape
        is_depthwise = operator.kind == "DEPTHWISE_CONV_2D"
        if len(shape) != MAX_RANK or (is_depthwise and (shape[0], options.get("depth_multiplier", 0)) != (1, 1)):
            raise RefusedGraphError("has a convolution whose weight and options do not go together")
        first, height, width, last = shape
        strides = _strides(operator)
        x, by = self.padded.get(x, (x, 0))
        pads = (by,) * 4
        if options.get("padding", SAME) == SAME:
            if strides != (1, 1) or height % 2 == 0 or width % 2 == 0 or by:
                raise RefusedGraphError("pads a convolution otherwise than by the same number of pixels on each side")
            pads = (height // 2, width // 2) * 2
        is_int8 = self._network.tensors[x].kind == INT8
        if is_int8 and [_axis_of(self._network.tensors[item]) for item in (weight, bias)] != [3 * is_depthwise, 0]:
            raise RefusedGraphError("has a convolution whose scales are not those of its channels")
        shape = (last, 1, height, width) if is_depthwise else (first, last, height, width)
        operands = [
            self._name(x),
            self._weight(weight, INT8 if is_int8 else FLOAT32, shape),
            self._weight(bias, INT32 if is_int8 else FLOAT32, self._network.tensors[bias].shape),
        ]
        self._node("Conv", operator, operands, strides=strides, pads=pads, group=last if is_depthwise else 1)

    def _images(self, operator: Operator) -> list[str]:
        if any(len(self._network.tensors[item].shape) != MAX_RANK for item in operator.inputs):
            raise RefusedGraphError("adds, multiplies or joins what are not images")
        return [self._name(item) for item in operator.inputs]

    def _name(self, number: int) -> str:
        """The name of a tensor that was computed before."""
        if number not in self._computed or number in self.padded or number in self.widened:
            name = self._network.tensors[number].name
            raise RefusedGraphError(f"takes {name!a} before it is computed, or as it should not be")
        return self._network.graph_name(number)

    def _weight(self, number: int, kind: int, shape: tuple[int, ...]) -> str:
        self._take(number, kind)
        self._weights.append(Weight(self._network.graph_name(number), FLOAT, shape, None))
        return self._weights[-1].name

    def _ints(self, number: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        place, tensor = self._take(number, INT32), self._network.tensors[number]
        if place is None or tensor.shape != shape or tensor.quantization is not None:
            raise RefusedGraphError(f"has the tensor {tensor.name!a} of an impossible shape, or quantised")
        return struct.unpack_from(f"<{math.prod(shape)}i", self._data, place[0])

    def _take(self, number: int, kind: int) -> Span | None:
        """Where the values of a constant stand. Libraries copy it for each use, so it has only one."""
        tensor = self._network.tensors[number]
        if tensor.kind != kind or number not in self._unused:
            raise RefusedGraphError(f"has {tensor.name!a} as a constant, which it is not, or which is used twice")
        self._unused.remove(number)
        return tensor.data


def _strides(operator: Operator) -> tuple[int, int]:
    return operator.options.get("stride_h", 0), operator.options.get("stride_w", 0)


def _scale_of(tensor: Tensor) -> float:
    return tensor.quantization.scales[0] if tensor.quantization is not None else 1.0


def _axis_of(tensor: Tensor) -> int | None:
    return tensor.quantization.axis if tensor.quantization is not None else None


def _otherwise(name: str) -> RefusedGraphError:
    return RefusedGraphError(f"declares the tensor {name!a} other than it is computed")


_IN_INT8 = ("ADD", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "PAD")
_MOST_SHRINKING = 2.0**16
"""By which a sum may have a larger scale than what is added."""
_TRANSLATIONS: Mapping[str, Callable[[_Translation, Operator], None]] = {
    "ADD": _Translation.add,
    "AVERAGE_POOL_2D": _Translation.halve,
    "CONCATENATION": _Translation.join,
    "CONV_2D": _Translation.convolve,
    "DEPTHWISE_CONV_2D": _Translation.convolve,
    "DEQUANTIZE": _Translation.dequantize,
    "LOGISTIC": _Translation.sigmoid,
    "MEAN": _Translation.pool,
    "MUL": _Translation.multiply,
    "PAD": _Translation.pad,
    "QUANTIZE": _Translation.quantize,
    "RELU": _Translation.rectify,
    "RELU_0_TO_1": _Translation.rectify,
    "RESHAPE": _Translation.flatten,
    "RESIZE_NEAREST_NEIGHBOR": _Translation.spread,
}

"""An ONNX graph -> LiteRT: node by node with LiteRT's operators, channels last.

A graph in QDQ format keeps its quantisation: what computes in int8 there does here, the rest in float32. Where the
weights alone are int8, LiteRT widens them once, when it loads the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from exporters.litert_file import LiteRtFile, Quantization
from ghostzoo._version import __version__
from ghostzoo.engines.base import OUTPUTS
from ghostzoo.errors import EngineError
from ghostzoo.network.architecture import INPUT_NAME

_Code, _Options, _Activation = schema.BuiltinOperator, schema.BuiltinOptions, schema.ActivationFunctionType
_FUSING = ("Add", "Concat", "Conv")
"""Operators of ONNX that compute in int8 where what they take and give is quantised."""
_Attributes = Mapping[str, Any]


class LiteRtNetwork:
    """A graph that ``ghostzoo.network.graph`` wrote, node by node; tensors are their positions in the file's list."""

    def __init__(self, graph: onnx.GraphProto, image_size: int) -> None:
        self._file = LiteRtFile()
        self._constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        self._found = {INPUT_NAME: self._file.tensor(INPUT_NAME, [1, image_size, image_size, 3])}
        """ONNX's name -> tensor."""
        self._scales: dict[str, NDArray[np.float32]] = {}
        """Of the constants that are quantised; ``_constants`` has these as they are stored."""
        self._dequantized: dict[str, str] = {}
        """Name of a tensor in float32 -> name of what is quantised."""
        self._quantization: Quantization | None = None
        """Of the output of the node at hand, where it computes in int8."""
        consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for operand in node.input:
                consumers.setdefault(operand, []).append(node)
        fused = set()
        for node in graph.node:
            name, operands, activation = node.output[0], list(node.input), _Activation.NONE
            if name in fused:
                continue
            if node.op_type not in _WRITERS:
                raise EngineError(
                    f"exporters/litert_network.py does not know the operator {node.op_type}; add it there."
                )
            attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            following = consumers.get(name, [])
            if node.op_type in _FUSING and len(following) == 1:
                if following[0].op_type == "Relu" and node.op_type != "Concat":
                    name, activation = following[0].output[0], _Activation.RELU
                    fused.add(name)
                elif following[0].op_type == "QuantizeLinear" and self._are_quantized(operands):
                    name = following[0].output[0]
                    fused.add(name)
                    self._quantization = self._quantization_of(list(following[0].input))
            tensor = _WRITERS[node.op_type](self, name, operands, attributes, activation)
            self._quantization = None
            if tensor is not None:
                self._found[name] = tensor

    def _are_quantized(self, operands: Sequence[str]) -> bool:
        return all(operand in self._dequantized or operand in self._scales for operand in operands)

    def _quantization_of(self, operands: Sequence[str]) -> Quantization:
        """What ONNX has as unsigned is signed in LiteRT."""
        return Quantization(np.atleast_1d(self._constants[operands[1]]), int(self._constants[operands[2]]) - 128)

    def quantize(self, name: str, operands: Sequence[str], *_: Any) -> int:
        inputs = self._inputs(operands[:1])
        self._quantization = self._quantization_of(operands)
        options = schema.QuantizeOptionsT()
        shape = self._shape(inputs[0])
        return self._operator(_Code.QUANTIZE, name, inputs, shape, _Options.QuantizeOptions, options)

    def dequantize(self, name: str, operands: Sequence[str], *_: Any) -> None:
        if operands[0] in self._constants:
            self._constants[name] = self._constants[operands[0]]
            self._scales[name] = self._constants[operands[1]]
        else:
            self._dequantized[name] = operands[0]

    def cast(self, name: str, operands: Sequence[str], *_: Any) -> None:
        """The first half of widening int8 weights to float32; the multiplication by their scales is the other."""
        self._constants[name] = self._constants[operands[0]]

    def add(self, name: str, operands: Sequence[str], _: _Attributes, activation: int) -> int:
        inputs = self._inputs(operands)
        options = schema.AddOptionsT(fusedActivationFunction=activation)
        return self._operator(_Code.ADD, name, inputs, self._shape(inputs[0]), _Options.AddOptions, options)

    def multiply(self, name: str, operands: Sequence[str], *_: Any) -> int | None:
        if operands[0] in self._constants:
            self._constants[name] = self._constants[operands[0]]
            self._scales[name] = self._constants[operands[1]].ravel()
            return None
        inputs = self._inputs(operands)
        return self._operator(
            _Code.MUL, name, inputs, self._shape(inputs[0]), _Options.MulOptions, schema.MulOptionsT()
        )

    def spread(self, name: str, operands: Sequence[str], *_: Any) -> int:
        """Gates of one pixel are resized to the image for ONNX Runtime's sake; here the multiplication broadcasts."""
        gate, *_rest = self._inputs(operands[:1])
        _batch, height, width, channels = self._shape(gate)
        if (height, width) == (1, 1):
            return gate
        factors = self._constants[operands[2]][2:]
        sides = [int(side * factor) for side, factor in zip((height, width), factors, strict=True)]
        size = self._constant(f"{name}.size", np.array(sides, np.int32))
        kind, options = _Options.ResizeNearestNeighborOptions, schema.ResizeNearestNeighborOptionsT()
        return self._operator(_Code.RESIZE_NEAREST_NEIGHBOR, name, [gate, size], [1, *sides, channels], kind, options)

    def halve(self, name: str, operands: Sequence[str], attributes: _Attributes, _: int) -> int:
        if not attributes["kernel_shape"] == attributes["strides"] == [2, 2]:
            raise EngineError(f"The graph averages otherwise than over 2 x 2 pixels in {name}.")
        inputs = self._inputs(operands)
        _, height, width, channels = self._shape(inputs[0])
        two = dict.fromkeys(("strideH", "strideW", "filterHeight", "filterWidth"), 2)
        options = schema.Pool2DOptionsT(padding=schema.Padding.VALID, **two)
        shape = [1, height // 2, width // 2, channels]
        return self._operator(_Code.AVERAGE_POOL_2D, name, inputs, shape, _Options.Pool2DOptions, options)

    def sigmoid(self, name: str, operands: Sequence[str], *_: Any) -> int:
        inputs = self._inputs(operands)
        return self._operator(_Code.LOGISTIC, name, inputs, self._shape(inputs[0]))

    def clip(self, name: str, operands: Sequence[str], *_: Any) -> int:
        if [float(self._constants[limit]) for limit in operands[1:]] != [0, 1]:
            raise EngineError("The graph clips to something other than 0 to 1.")
        inputs = self._inputs(operands[:1])
        return self._operator(_Code.RELU_0_TO_1, name, inputs, self._shape(inputs[0]))

    def rectify(self, name: str, operands: Sequence[str], *_: Any) -> int:
        inputs = self._inputs(operands)
        return self._operator(_Code.RELU, name, inputs, self._shape(inputs[0]))

    def join(self, name: str, operands: Sequence[str], *_: Any) -> int:
        inputs = self._inputs(operands)
        if self._quantization is not None:  # LiteRT joins only what is quantised alike
            inputs = [self._requantize(f"{name}.{part}", part) for part in inputs]
        shape = [*self._shape(inputs[0])[:3], sum(self._shape(part)[3] for part in inputs)]
        options = schema.ConcatenationOptionsT(axis=3)
        return self._operator(_Code.CONCATENATION, name, inputs, shape, _Options.ConcatenationOptions, options)

    def pool(self, name: str, operands: Sequence[str], *_: Any) -> int:
        (x,) = self._inputs(operands)
        axes = self._constant(f"{name}.axes", np.array([1, 2], np.int32))
        options = schema.ReducerOptionsT(keepDims=True)
        shape = [1, 1, 1, self._shape(x)[3]]
        return self._operator(_Code.MEAN, name, [x, axes], shape, _Options.ReducerOptions, options)

    def flatten(self, name: str, operands: Sequence[str], *_: Any) -> int:
        (x,) = self._inputs(operands)
        width = self._shape(x)[3]
        shape = self._constant(f"{name}.shape", np.array([-1, width], np.int32))
        options = schema.ReshapeOptionsT(newShape=[-1, width])
        return self._operator(_Code.RESHAPE, name, [x, shape], [1, width], _Options.ReshapeOptions, options)

    def convolve(self, name: str, operands: Sequence[str], attributes: _Attributes, activation: int) -> int:
        (x,) = self._inputs(operands[:1])
        weight = self._constants[operands[1]]
        channels, depth, *kernel = weight.shape
        stride, pads, groups = attributes["strides"][0], attributes["pads"], attributes.get("group", 1)
        keeps_size = stride == 1 and pads == [side // 2 for side in kernel] * 2 and all(side % 2 for side in kernel)
        is_even = keeps_size or len({*pads}) == len({*kernel}) == 1
        if not is_even or (groups != 1 and not groups == self._shape(x)[3] == channels):
            raise EngineError(f"The graph pads or groups the convolution {name} otherwise than a GhostNet does.")
        size = (self._shape(x)[1] + 2 * pads[0] - kernel[0]) // stride + 1
        padding = schema.Padding.VALID
        if keeps_size and any(pads):
            padding = schema.Padding.SAME
        elif pads[0]:  # with a stride, LiteRT's own padding is of the far side alone
            x = self._pad(f"{name}.pad", x, pads[0])
        shared = {"padding": padding, "strideH": stride, "strideW": stride, "fusedActivationFunction": activation}
        shape = [1, size, size, channels]
        if groups == 1:
            operands_of = [x, self._weight(name, operands[1], (0, 2, 3, 1), 0), self._bias(name, x, operands)]
            conv = schema.Conv2DOptionsT(**shared)
            return self._operator(_Code.CONV_2D, name, operands_of, shape, _Options.Conv2DOptions, conv)
        operands_of = [x, self._weight(name, operands[1], (1, 2, 3, 0), 3), self._bias(name, x, operands)]
        depthwise = schema.DepthwiseConv2DOptionsT(**shared, depthMultiplier=depth)
        kind = _Options.DepthwiseConv2DOptions
        return self._operator(_Code.DEPTHWISE_CONV_2D, name, operands_of, shape, kind, depthwise)

    def _pad(self, name: str, x: int, by: int) -> int:
        amounts = self._constant(f"{name}.amounts", np.array([[0, 0], [by, by], [by, by], [0, 0]], np.int32))
        _, height, width, channels = self._shape(x)
        shape = [1, height + 2 * by, width + 2 * by, channels]
        padded = self._file.tensor(name, shape, self._file.quantization(x))
        return self._file.operator(_Code.PAD, [x, amounts], padded, _Options.PadOptions, schema.PadOptionsT())

    def _weight(self, name: str, operand: str, order: tuple[int, ...], axis: int) -> int:
        values = self._constants[operand].transpose(order)
        if operand not in self._scales:
            return self._constant(f"{name}.weight", values)
        scales = self._scales[operand]
        weight = self._file.constant(f"{name}.weight.int8", values, Quantization(scales, 0, axis))
        return weight if self._quantization is not None else self._dequantize(f"{name}.weight", weight)

    def _bias(self, name: str, x: int, operands: Sequence[str]) -> int:
        weight, bias = operands[1], operands[2] if len(operands) > 2 else ""
        values = self._constants[bias] if bias else np.zeros(len(self._constants[weight]), np.int32)
        quantization = self._file.quantization(x)
        if self._quantization is not None and quantization is not None:
            return self._file.constant(
                f"{name}.bias", values, Quantization(quantization.scales * self._scales[weight], 0)
            )
        return self._constant(f"{name}.bias", (values * self._scales.get(bias, 1)).astype(np.float32))

    def _inputs(self, names: Sequence[str]) -> list[int]:
        """The tensors of these names: as they are quantised, or widened to float32 where float32 is computed."""
        if self._quantization is not None:
            return [self._found[self._dequantized[name]] for name in names]
        for name in names:
            if name not in self._found:
                self._found[name] = self._dequantize(name, self._found[self._dequantized[name]])
        return [self._found[name] for name in names]

    def _dequantize(self, name: str, x: int) -> int:
        widened = self._file.tensor(name, self._shape(x))
        options = schema.DequantizeOptionsT()
        return self._file.operator(_Code.DEQUANTIZE, [x], widened, _Options.DequantizeOptions, options)

    def _requantize(self, name: str, x: int) -> int:
        options = schema.QuantizeOptionsT()
        return self._operator(_Code.QUANTIZE, name, [x], self._shape(x), _Options.QuantizeOptions, options)

    def _constant(self, name: str, values: NDArray[Any]) -> int:
        return self._file.constant(name, values)

    def _shape(self, tensor: int) -> list[int]:
        return self._file.shape(tensor)

    def _operator(
        self, code: int, name: str, inputs: list[int], shape: list[int], kind: int = 0, options: Any = None
    ) -> int:
        """Write an operator of the node at hand, whose output is quantised where the node computes in int8."""
        return self._file.operator(code, inputs, self._file.tensor(name, shape, self._quantization), kind, options)

    def serialize(self, name: str) -> bytes:
        """Return the file; the same graph gives the same bytes."""
        outputs: dict[str, int] = {output: self._found[output] for output in OUTPUTS}
        description = f"{name}, written by ghostzoo {__version__}"
        return self._file.serialize({INPUT_NAME: self._found[INPUT_NAME]}, outputs, description)


_WRITERS: Mapping[str, Callable[..., int | None]] = {
    "Add": LiteRtNetwork.add,
    "AveragePool": LiteRtNetwork.halve,
    "Cast": LiteRtNetwork.cast,
    "Clip": LiteRtNetwork.clip,
    "Concat": LiteRtNetwork.join,
    "Conv": LiteRtNetwork.convolve,
    "DequantizeLinear": LiteRtNetwork.dequantize,
    "Flatten": LiteRtNetwork.flatten,
    "GlobalAveragePool": LiteRtNetwork.pool,
    "Mul": LiteRtNetwork.multiply,
    "QuantizeLinear": LiteRtNetwork.quantize,
    "Relu": LiteRtNetwork.rectify,
    "Resize": LiteRtNetwork.spread,
    "Sigmoid": LiteRtNetwork.sigmoid,
}
"""Operator of ``ghostzoo.network.graph`` -> what writes its counterpart, called with name, operands, attributes and
activation."""

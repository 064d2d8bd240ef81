"""ONNX -> LiteRT: the graph is written anew with LiteRT's operators, channels last, as that library computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ghostzoo._version import __version__
from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.engines.base import OUTPUTS
from ghostzoo.errors import EngineError
from ghostzoo.network.architecture import INPUT_NAME

_FORMAT_VERSION = 3
_FILE_IDENTIFIER = b"TFL3"
_SIGNATURE = b"serving_default"
_LAST_DEPRECATED_CODE = 127
"""The field that older readers take an operator's code from ends here."""

_Code, _Options, _Activation = schema.BuiltinOperator, schema.BuiltinOptions, schema.ActivationFunctionType
_Attributes = Mapping[str, Any]


def convert(bundle: Bundle) -> dict[str, bytes]:
    """Convert the float32 graph of ``bundle``; return the file's content by its path in the bundle.

    The network takes ``pixel_values`` (1, height, width, 3) and gives ``logits`` (1, classes) and ``embedding``
    (1, 1280), all float32; ``resize_tensor_input`` makes it take more images at once.

    Raises:
        EngineError: the graph has something that ``ghostzoo.network.graph`` does not use.
    """
    model = bundle.model()
    try:
        graph = onnx.load_from_string(model).graph
    except DecodeError as error:
        raise EngineError(
            f"onnx/model.onnx of {bundle.name} is no ONNX graph: {error}; convert the model again."
        ) from error
    (path,) = CONVERTED_FILES["litert"]
    return {path: _Network(graph, bundle.config.image_size).serialize(bundle.name)}


def tools() -> Mapping[str, str]:
    """Return the names and versions of the tools."""
    return {name: version(name) for name in ("ai-edge-litert", "flatbuffers")}


class _Network:
    """A graph that ``ghostzoo.network.graph`` wrote, node by node; tensors are their positions in the file's list."""

    def __init__(self, graph: onnx.GraphProto, image_size: int) -> None:
        self._buffers = [schema.BufferT()]  # the first is that of tensors without content, and has to be empty
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[int, int] = {}
        self._constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        self._found = {INPUT_NAME: self._tensor(INPUT_NAME, [1, image_size, image_size, 3])}
        uses = Counter(name for node in graph.node for name in node.input)
        rectified = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "Relu"}
        fused = set()
        for node in graph.node:
            if node.output[0] in fused:
                continue
            if node.op_type not in _WRITERS:
                raise EngineError(f"exporters/to_litert.py does not know the operator {node.op_type}; add it there.")
            attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            name, activation = node.output[0], _Activation.NONE
            if node.op_type in ("Add", "Conv") and uses[name] == 1 and name in rectified:
                name, activation = rectified[name], _Activation.RELU
                fused.add(name)
            self._found[name] = _WRITERS[node.op_type](self, name, list(node.input), attributes, activation)

    def add(self, name: str, operands: Sequence[str], _: _Attributes, activation: int) -> int:
        inputs = self._inputs(operands)
        options = schema.AddOptionsT(fusedActivationFunction=activation)
        return self._operator(_Code.ADD, name, inputs, self._shape(inputs[0]), _Options.AddOptions, options)

    def multiply(self, name: str, operands: Sequence[str], *_: Any) -> int:
        inputs = self._inputs(operands)
        return self._operator(
            _Code.MUL, name, inputs, self._shape(inputs[0]), _Options.MulOptions, schema.MulOptionsT()
        )

    def spread(self, _: str, operands: Sequence[str], *__: Any) -> int:
        """The graph resizes gates to the image for ONNX Runtime's sake; here the multiplication broadcasts."""
        gate = self._found[operands[0]]
        if self._shape(gate)[1:3] != [1, 1]:
            raise EngineError("The graph resizes something other than the gates of squeeze-and-excitation blocks.")
        return gate

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
        channels, depth, kernel, _ = weight.shape
        bias = self._constants[operands[2]] if len(operands) > 2 else np.zeros(channels, np.float32)
        stride, pads, groups = attributes["strides"][0], attributes["pads"], attributes.get("group", 1)
        if len(set(pads)) != 1 or (groups != 1 and not groups == self._shape(x)[3] == channels):
            raise EngineError(f"The graph pads or groups the convolution {name} otherwise than a GhostNet does.")
        size = (self._shape(x)[1] + 2 * pads[0] - kernel) // stride + 1
        padding = schema.Padding.VALID
        if pads[0] and stride == 1 and 2 * pads[0] == kernel - 1:
            padding = schema.Padding.SAME
        elif pads[0]:  # with a stride, LiteRT's own padding is of the far side alone
            x = self._pad(f"{name}.pad", x, pads[0])
        operands_of = [x, 0, self._constant(f"{name}.bias", bias)]
        shared = {"padding": padding, "strideH": stride, "strideW": stride, "fusedActivationFunction": activation}
        shape = [1, size, size, channels]
        if groups == 1:
            operands_of[1] = self._constant(f"{name}.weight", weight.transpose(0, 2, 3, 1))
            conv = schema.Conv2DOptionsT(**shared)
            return self._operator(_Code.CONV_2D, name, operands_of, shape, _Options.Conv2DOptions, conv)
        operands_of[1] = self._constant(f"{name}.weight", weight.transpose(1, 2, 3, 0))
        depthwise = schema.DepthwiseConv2DOptionsT(**shared, depthMultiplier=depth)
        kind = _Options.DepthwiseConv2DOptions
        return self._operator(_Code.DEPTHWISE_CONV_2D, name, operands_of, shape, kind, depthwise)

    def _pad(self, name: str, x: int, by: int) -> int:
        amounts = self._constant(f"{name}.amounts", np.array([[0, 0], [by, by], [by, by], [0, 0]], np.int32))
        _, height, width, channels = self._shape(x)
        shape = [1, height + 2 * by, width + 2 * by, channels]
        return self._operator(_Code.PAD, name, [x, amounts], shape, _Options.PadOptions, schema.PadOptionsT())

    def _inputs(self, names: Sequence[str]) -> list[int]:
        return [self._found[name] for name in names]

    def _shape(self, tensor: int) -> list[int]:
        return list(self._tensors[tensor].shape)

    def _constant(self, name: str, values: NDArray[Any]) -> int:
        content = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._buffers.append(schema.BufferT(data=content))
        kind = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32}[values.dtype.name]
        return self._tensor(name, list(values.shape), kind, len(self._buffers) - 1)

    def _tensor(self, name: str, shape: list[int], kind: int = schema.TensorType.FLOAT32, buffer: int = 0) -> int:
        self._tensors.append(schema.TensorT(shape=shape, type=kind, buffer=buffer, name=name.encode()))
        return len(self._tensors) - 1

    def _operator(
        self, code: int, name: str, inputs: list[int], shape: list[int], kind: int = 0, options: Any = None
    ) -> int:
        output = self._tensor(name, shape)
        index = self._codes.setdefault(code, len(self._codes))
        self._operators.append(
            schema.OperatorT(
                opcodeIndex=index, inputs=inputs, outputs=[output], builtinOptionsType=kind, builtinOptions=options
            )
        )
        return output

    def serialize(self, name: str) -> bytes:
        """Return the file; the same graph gives the same bytes."""
        outputs: dict[str, int] = {output: self._found[output] for output in OUTPUTS}
        inputs = {INPUT_NAME: self._found[INPUT_NAME]}
        graph = schema.SubGraphT(
            tensors=self._tensors,
            inputs=list(inputs.values()),
            outputs=list(outputs.values()),
            operators=self._operators,
            name=b"main",
        )
        signature = schema.SignatureDefT(
            inputs=_named(inputs), outputs=_named(outputs), signatureKey=_SIGNATURE, subgraphIndex=0
        )
        codes = [
            schema.OperatorCodeT(deprecatedBuiltinCode=min(code, _LAST_DEPRECATED_CODE), builtinCode=code, version=1)
            for code in self._codes
        ]
        model = schema.ModelT(
            version=_FORMAT_VERSION,
            operatorCodes=codes,
            subgraphs=[graph],
            buffers=self._buffers,
            description=f"{name}, written by ghostzoo {__version__}".encode(),
            signatureDefs=[signature],
        )
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), _FILE_IDENTIFIER)
        return bytes(builder.Output())


def _named(tensors: Mapping[str, int]) -> list[Any]:
    return [schema.TensorMapT(name=name.encode(), tensorIndex=tensor) for name, tensor in tensors.items()]


_WRITERS: Mapping[str, Callable[..., int]] = {
    "Add": _Network.add,
    "Clip": _Network.clip,
    "Concat": _Network.join,
    "Conv": _Network.convolve,
    "Flatten": _Network.flatten,
    "GlobalAveragePool": _Network.pool,
    "Mul": _Network.multiply,
    "Relu": _Network.rectify,
    "Resize": _Network.spread,
}
"""Operator of ``ghostzoo.network.graph`` -> what writes its counterpart, called with name, operands, attributes and
activation."""

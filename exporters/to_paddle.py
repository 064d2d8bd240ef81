"""ONNX -> Paddle Inference: the graph is rebuilt from Paddle's operators and saved by Paddle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle
from paddle.nn import functional as F  # noqa: N812  # the name that Paddle's own code uses

from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.engines.base import OUTPUTS
from ghostzoo.errors import EngineError
from ghostzoo.network.architecture import INPUT_NAME


def _conv(attributes: Mapping[str, Any], x: Any, weight: Any, bias: Any = None) -> Any:
    top, left, bottom, right = attributes["pads"]
    return F.conv2d(
        x,
        weight,
        bias,
        stride=attributes["strides"],
        padding=[top, bottom, left, right],
        dilation=attributes["dilations"],
        groups=attributes.get("group", 1),
    )


def _broadcast(_: Mapping[str, Any], gate: Any, *__: Any) -> Any:
    # The graph resizes gates to the image for ONNX Runtime's sake; in Paddle the multiplication broadcasts.
    if list(gate.shape[2:]) != [1, 1]:
        raise EngineError("The graph resizes something other than the gates of squeeze-and-excitation blocks.")
    return gate


_OPERATORS: Mapping[str, Callable[..., Any]] = {
    "Add": lambda _, a, b: paddle.add(a, b),
    "Clip": lambda _, x, low, high: paddle.clip(x, low, high),
    "Concat": lambda attributes, *tensors: paddle.concat(list(tensors), axis=attributes["axis"]),
    "Conv": _conv,
    "Flatten": lambda _, x: paddle.flatten(x, 1),
    "Gemm": lambda _, x, weight, bias: F.linear(x, weight, bias),
    "GlobalAveragePool": lambda _, x: F.adaptive_avg_pool2d(x, 1),
    "Mul": lambda _, a, b: paddle.multiply(a, b),
    "Relu": lambda _, x: F.relu(x),
    "Resize": _broadcast,
}
"""Operator of ``ghostzoo.network.graph`` -> its Paddle counterpart, called with attributes and operands."""
_WEIGHTED = ("Conv", "Gemm")


class _GraphLayer(paddle.nn.Layer):
    """A graph that ``ghostzoo.network.graph`` wrote, node by node."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        super().__init__()
        self._steps = []
        for node in graph.node:
            if node.op_type not in _OPERATORS:
                raise EngineError(f"exporters/to_paddle.py does not know the operator {node.op_type}; add it there.")
            attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            self._steps.append((_OPERATORS[node.op_type], attributes, list(node.input), node.output[0]))
        weights = {name for node in graph.node if node.op_type in _WEIGHTED for name in node.input}
        self._constants: dict[str, Any] = {"": None}  # an omitted operand
        for index, tensor in enumerate(graph.initializer):
            values = onnx.numpy_helper.to_array(tensor)
            self._constants[tensor.name] = self._parameter(index, values) if tensor.name in weights else values.tolist()

    def _parameter(self, index: int, values: Any) -> Any:
        # Unnamed: a fixed name could exist only once per process.
        parameter = self.create_parameter(list(values.shape))
        parameter.set_value(np.array(values))
        self.add_parameter(f"parameter_{index}", parameter)
        return parameter

    def forward(self, pixel_values: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        values = {**self._constants, INPUT_NAME: pixel_values}
        for operator, attributes, operands, output in self._steps:
            values[output] = operator(attributes, *(values[name] for name in operands))
        return tuple(values[name] for name in OUTPUTS)


def convert(bundle: Bundle) -> dict[str, bytes]:
    """Convert the float32 graph of ``bundle``; return program and weights by path in the bundle.

    Raises:
        EngineError: the graph has an operator that ``ghostzoo.network.graph`` does not use.
    """
    layer = _GraphLayer(onnx.load_from_string(bundle.model()).graph)
    layer.eval()
    side = bundle.config.image_size
    spec = paddle.static.InputSpec([None, 3, side, side], "float32", INPUT_NAME)
    with tempfile.TemporaryDirectory(prefix="ghostzoo-export-") as folder:
        prefix = Path(folder, "inference")
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=[spec], full_graph=True), str(prefix))
        return {path: Path(folder, Path(path).name).read_bytes() for path in CONVERTED_FILES["paddle"]}


def tools() -> Mapping[str, str]:
    """Return the names and versions of the tools."""
    return {"paddlepaddle": version("paddlepaddle")}

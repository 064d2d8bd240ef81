"""Parameters and multiply-adds, counted in the ONNX graph and compared with the published figures.

The graph pads channels to fit the engines' blocked layouts, and computes some twice to save a concatenation. Both are
found with probe graphs of the same architecture whose weights are consecutive numbers: zeros are padding, a number
that was seen before is a repetition, and constants are the graph's own. They are counted separately; the rest is the
network itself, dead channels included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ghostzoo.catalog import PublishedFigures
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.graph import build_graph
from ghostzoo.network.layers import BATCH_NORM_EPSILON, Layer

# A published figure has two decimals of a million.
_ROUNDING = 0.005 + 1e-9


@dataclass(frozen=True)
class ModelCounts:
    """The cost of one image, counted as the bare network and by the published conventions, which count more."""

    trainable_parameters: int
    parameters: int
    """Including the mean and variance of each batch-norm, as in the published figures."""
    multiply_adds: int
    """Of all convolutions and Linear layers."""
    operations: int
    """Multiply-adds, two operations for each output of a batch-norm, and the additions and divisions of the global
    poolings: what the published figures call FLOPs."""
    padded_parameters: int
    """Weights and biases of the graph, with padding and with batch-norms folded."""
    padded_multiply_adds: int

    def to_report(self, published: PublishedFigures | None) -> dict[str, Any]:
        """Return the counts, compared with the published ones if there are any."""
        report: dict[str, Any] = {
            "parameters": self.parameters,
            "trainable_parameters": self.trainable_parameters,
            "operations": self.operations,
            "multiply_adds": self.multiply_adds,
            "graph_parameters_with_padding": self.padded_parameters,
            "graph_multiply_adds_with_padding": self.padded_multiply_adds,
        }
        for name, count in (("parameters", self.parameters), ("multiply_adds", self.operations)):
            millions: float | None = getattr(published, f"{name}_millions", None)
            if millions is not None:
                report[f"published_{name}_millions"] = millions
                report[f"{name}_agree"] = abs(count / 1e6 - millions) < _ROUNDING
        return report


def count_flops(model: bytes, architecture: Architecture) -> ModelCounts:
    """Count parameters and operations of the graph that ``ghostzoo.network.graph`` wrote for ``architecture``.

    Raises:
        ValueError: the graph is a different one, or its padding is not zero.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True).graph
    used, own = _used_slots(graph, architecture)
    layers = {layer.name: layer for layer in architecture.layers()}
    shapes = {
        value.name: [dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    weights = biases = normalised = multiply_adds = extra = padded = padded_multiply_adds = 0
    for node in graph.node:
        if node.op_type == "GlobalAveragePool":
            _, _, height, width = shapes[node.input[0]]
            extra += (height * width + 1) * _channels(graph, node.input[0], used)
        if node.op_type != "Conv":
            continue
        weight = own[node.input[1]]
        bias = own[node.input[2]].sum() if len(node.input) > 2 else 0  # the second half of a split has none
        places = int(np.prod(shapes[node.output[0]][2:], dtype=np.int64))
        weights += int(weight.sum())
        multiply_adds += int(weight.sum()) * places
        padded += sum(used[name].size for name in node.input[1:])
        padded_multiply_adds += weight.size * places
        if _layer(node.name, layers).has_norm:
            normalised += int(bias)
            extra += 2 * int(bias) * places
        else:
            biases += int(bias)
    return ModelCounts(
        trainable_parameters=weights + biases + 2 * normalised,
        parameters=weights + biases + 4 * normalised,
        multiply_adds=multiply_adds,
        operations=multiply_adds + extra,
        padded_parameters=padded,
        padded_multiply_adds=padded_multiply_adds,
    )


def _layer(node: str, layers: dict[str, Layer]) -> Layer:
    """The layer that a convolution belongs to, whose name may say further which half it is of."""
    while node not in layers:
        node = node.rpartition(".")[0]
    return layers[node]


def _used_slots(
    graph: onnx.GraphProto, architecture: Architecture
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[np.bool_]]]:
    """Initializer -> mask of its values that are not padding, and of the first occurrences of weights among them."""
    size = graph.input[0].type.tensor_type.shape.dim[2].dim_value
    none, every = (_probe(architecture, graph.name, size, numbered) for numbered in (False, True))
    if list(every.node) != list(graph.node):
        raise ValueError(f"this is not the graph that ghostzoo writes for width {architecture.width:g}")
    numbers, constants = (
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in probe.initializer} for probe in (every, none)
    )
    used = {name: values != 0 for name, values in numbers.items()}
    for tensor in graph.initializer:
        slots = used[tensor.name]
        if list(tensor.dims) != list(slots.shape) or (onnx.numpy_helper.to_array(tensor)[~slots] != 0).any():
            raise ValueError(f"{tensor.name} has another shape than the architecture's, or weights in its padding")
    return used, {name: (values != constants[name]) & _is_first(values) for name, values in numbers.items()}


def _probe(architecture: Architecture, name: str, image_size: int, numbered: bool) -> onnx.GraphProto:
    """Build the graph of weights that are all different, or all zero, with identity batch-norms.

    The numbers start at 2, since the graph has ones of its own. Of a layer's branches only the first one counts.
    """
    arrays = {
        key: (np.arange(2, np.prod(shape) + 2, dtype=np.float32) * numbered).reshape(shape)
        for key, shape in architecture.state_shapes().items()
    }
    for layer in architecture.layers():
        for position, branch in enumerate(layer.branches):
            if branch.norm is not None:
                arrays[branch.norm.gamma][:] = position == 0
                arrays[branch.norm.beta] *= position == 0
                arrays[branch.norm.mean][:] = 0
                arrays[branch.norm.variance][:] = 1 - BATCH_NORM_EPSILON
    data = build_graph(arrays, architecture, model_name=name, weights_sha256="", image_size=image_size)
    return onnx.load_from_string(data).graph


def _is_first(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mask of first occurrences."""
    first = np.zeros(values.size, bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first.reshape(values.shape)


def _channels(graph: onnx.GraphProto, name: str, used: dict[str, NDArray[np.bool_]]) -> int:
    """Channels of a tensor that are not padding, from the convolution that computes it."""
    producers = {output: node for node in graph.node for output in node.output}
    node = producers[name]
    while node.op_type != "Conv":
        node = producers[node.input[0]]
    weight = used[node.input[1]]
    return int(weight.any(axis=(1, 2, 3)).sum())

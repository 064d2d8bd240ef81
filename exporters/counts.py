"""Parameters and multiply-adds, counted from the ONNX graph and held against the published figures.

The graph pads channels to fit the engines' blocked layouts. Which slots are padding is told by the graph of the same
architecture whose weights are all ones: there, padding is all that is zero. They are counted apart, so that what is
left is the network itself, dead channels included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ghostzoo.architecture import Architecture
from ghostzoo.catalog import PublishedFigures
from ghostzoo.graph import build_graph

# A published figure has two decimals of a million.
_ROUNDING = 0.005 + 1e-9


@dataclass(frozen=True)
class Counts:
    """What one pass over one image takes. Published conventions count more than the bare network; both are here."""

    trainable_parameters: int
    parameters: int
    """With the mean and variance of each batch-norm, as the published figures count."""
    multiply_adds: int
    """Of all convolutions and Linear layers."""
    operations: int
    """Multiply-adds, two operations for each output of a batch-norm, and the additions and divisions of the global
    poolings: what the published figures call FLOPs."""
    padded_parameters: int
    """Weights and biases of the graph as it is, padding included, batch-norm folded away."""
    padded_multiply_adds: int

    def to_report(self, published: PublishedFigures | None) -> dict[str, Any]:
        """Return the counts, and how they compare with the published ones where there are any."""
        report: dict[str, Any] = {
            "parameters": self.parameters,
            "trainable_parameters": self.trainable_parameters,
            "operations": self.operations,
            "multiply_adds": self.multiply_adds,
            "graph_parameters_with_padding": self.padded_parameters,
            "graph_multiply_adds_with_padding": self.padded_multiply_adds,
        }
        if published is not None:
            report["published_parameters_millions"] = published.parameters_millions
            report["parameters_agree"] = abs(self.parameters / 1e6 - published.parameters_millions) < _ROUNDING
            report["published_multiply_adds_millions"] = published.multiply_adds_millions
            report["multiply_adds_agree"] = abs(self.operations / 1e6 - published.multiply_adds_millions) < _ROUNDING
        return report


def count(model: bytes, architecture: Architecture) -> Counts:
    """Count in a graph that ``ghostzoo.graph`` wrote for ``architecture``.

    Raises:
        ValueError: the graph is another one, or holds something in its padding.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True).graph
    used = _used_slots(graph, architecture)
    shapes = {
        value.name: [dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    weights = biases = normalised = multiply_adds = extra = padded = padded_multiply_adds = 0
    for node in graph.node:
        if node.op_type == "GlobalAveragePool":
            _, _, height, width = shapes[node.input[0]]
            extra += (height * width + 1) * _channels(graph, node.input[0], used)
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight = used[node.input[1]]
        bias = used[node.input[2]].sum() if len(node.input) > 2 else 0  # the second half of a split has none
        places = int(np.prod(shapes[node.output[0]][2:], dtype=np.int64))
        weights += int(weight.sum())
        multiply_adds += int(weight.sum()) * places
        padded += sum(used[name].size for name in node.input[1:])
        padded_multiply_adds += weight.size * places
        if node.op_type == "Gemm" or ".se." in node.name:
            biases += int(bias)
        else:  # folded from a batch-norm
            normalised += int(bias)
            extra += 2 * int(bias) * places
    return Counts(
        trainable_parameters=weights + biases + 2 * normalised,
        parameters=weights + biases + 4 * normalised,
        multiply_adds=multiply_adds,
        operations=multiply_adds + extra,
        padded_parameters=padded,
        padded_multiply_adds=padded_multiply_adds,
    )


def _used_slots(graph: onnx.GraphProto, architecture: Architecture) -> dict[str, NDArray[np.bool_]]:
    """Initializer -> which of its numbers are weights of the network, and not padding."""
    ones = {key: np.ones(shape, np.float32) for key, shape in architecture.state_shapes().items()}
    size = graph.input[0].type.tensor_type.shape.dim[2].dim_value
    data = build_graph(ones, architecture, model_name=graph.name, weights_sha256="", image_size=size)
    probe = onnx.load_from_string(data).graph
    if list(probe.node) != list(graph.node):
        raise ValueError(f"this is not the graph that ghostzoo writes for width {architecture.width:g}")
    used = {tensor.name: onnx.numpy_helper.to_array(tensor) != 0 for tensor in probe.initializer}
    for tensor in graph.initializer:
        slots = used[tensor.name]
        if list(tensor.dims) != list(slots.shape) or (onnx.numpy_helper.to_array(tensor)[~slots] != 0).any():
            raise ValueError(f"{tensor.name} has another shape than the architecture's, or weights in its padding")
    return used


def _channels(graph: onnx.GraphProto, name: str, used: dict[str, NDArray[np.bool_]]) -> int:
    """Channels of a tensor that are no padding, from the convolution that makes it."""
    producers = {output: node for node in graph.node for output in node.output}
    node = producers[name]
    while node.op_type != "Conv":
        node = producers[node.input[0]]
    weight = used[node.input[1]]
    return int(weight.any(axis=(1, 2, 3)).sum())

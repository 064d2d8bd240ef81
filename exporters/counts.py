"""Parameters and multiply-adds, counted from the ONNX graph and held against the published figures.

The graph pads channels to fit the engines' blocked layouts. A padding slot has no weights but zeros; such slots are
counted apart, so that what is left is the network itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ghostzoo.catalog import PublishedFigures

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


def count(model: bytes) -> Counts:
    """Count in a graph that ``ghostzoo.graph`` wrote."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = {
        value.name: [dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    weights = biases = normalised = multiply_adds = extra = padded = padded_multiply_adds = 0
    for node in graph.node:
        if node.op_type == "GlobalAveragePool":
            _, channels, height, width = shapes[node.input[0]]
            extra += (height * width + 1) * _used_channels(graph, node.input[0], tensors, channels)
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight = tensors[node.input[1]]
        bias = tensors[node.input[2]] if len(node.input) > 2 else None
        places = int(np.prod(shapes[node.output[0]][2:], dtype=np.int64)) if node.op_type == "Conv" else 1
        used = _used_weights(weight)
        weights += used
        multiply_adds += used * places
        padded += weight.size + (0 if bias is None else bias.size)
        padded_multiply_adds += weight.size * places
        if bias is None:  # the second half of a split convolution
            continue
        if node.op_type == "Gemm" or ".se." in node.name:
            biases += weight.shape[1] if node.op_type == "Gemm" else _used_rows(weight)
        else:
            normalised += _used_rows(weight)
            extra += 2 * _used_rows(weight) * places
    return Counts(
        trainable_parameters=weights + biases + 2 * normalised,
        parameters=weights + biases + 4 * normalised,
        multiply_adds=multiply_adds,
        operations=multiply_adds + extra,
        padded_parameters=padded,
        padded_multiply_adds=padded_multiply_adds,
    )


def _used_rows(weight: NDArray[np.float32]) -> int:
    return int(weight.reshape(len(weight), -1).any(axis=1).sum())


def _used_weights(weight: NDArray[np.float32]) -> int:
    """Weights between slots that are no padding; a single weight may be zero without being padding."""
    columns = int(weight.any(axis=tuple(axis for axis in range(weight.ndim) if axis != 1)).sum())
    return _used_rows(weight) * columns * int(np.prod(weight.shape[2:], dtype=np.int64))


def _used_channels(graph: onnx.GraphProto, name: str, tensors: dict[str, NDArray[np.float32]], channels: int) -> int:
    """Channels of a tensor that are no padding, from the convolution that makes it."""
    producers = {output: node for node in graph.node for output in node.output}
    node = producers.get(name)
    while node is not None and node.op_type != "Conv":
        node = producers.get(node.input[0])
    return channels if node is None else _used_rows(tensors[node.input[1]])

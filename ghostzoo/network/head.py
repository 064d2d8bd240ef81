"""The last layers of a graph, which all networks of the family share: pooling, linear, ReLU, linear.

They are found by the graph's structure, read as arrays, and changed in the file's bytes, all without ``onnx``: another
last layer makes a model with other classes, and the tensor before the pooling becomes an output of the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .architecture import EMBEDDING_NAME, LOGITS_NAME
from .graph_check import check_network
from .graph_file import FLOAT, Node, Weight, read_graph
from .wire import RefusedGraphError, Span, read_fields, write_field

FEATURES_NAME = "features"
"""What the tensor before the pooling is called as an output of the graph."""

_GRAPH, _METADATA = 7, 14  # fields of ModelProto
_NODE, _NAME, _INITIALIZER, _OUTPUT = 1, 2, 5, 12  # fields of GraphProto
_MODEL_KEY = b"ghostzoo.model"


@dataclass(frozen=True)
class Head:
    """From the tensor before the pooling to the logits; for the names of shapes, C channels and E = 1280."""

    features: str
    """Name of the tensor before the pooling."""
    shape: tuple[int, int, int]
    """Its shape for one image: (C, H, W)."""
    hidden_weight: NDArray[np.float32]
    """(E, C)"""
    hidden_bias: NDArray[np.float32]
    """(E,)"""
    class_weight: NDArray[np.float32]
    """(classes, E)"""
    class_bias: NDArray[np.float32]
    """(classes,)"""
    class_names: tuple[str, str]
    """Names of the last layer's weight and bias in the graph."""
    batch: str
    """Name of the batch's size in the graph."""


def read_head(data: bytes, *, num_classes: int, image_size: int) -> Head:
    """Read the head of an ONNX graph that ``check_graph`` admits.

    Raises:
        RefusedGraphError: the graph does not end as the family's networks do, or not in float32.
    """
    graph = read_graph(data)
    shapes = check_network(graph, num_classes=num_classes, image_size=image_size)
    nodes = {node.outputs[0]: node for node in graph.nodes}
    weights = {weight.name: weight for weight in graph.weights}
    flat = _made_by(nodes, EMBEDDING_NAME, "Flatten")
    hidden = _made_by(nodes, _made_by(nodes, flat.inputs[0], "Relu").inputs[0], "Conv")
    pool = _made_by(nodes, hidden.inputs[0], "GlobalAveragePool")
    last = _made_by(nodes, _made_by(nodes, LOGITS_NAME, "Flatten").inputs[0], "Conv")
    if last.inputs[0] != flat.inputs[0]:
        raise _strange("the logits are not made of the embedding")
    features = pool.inputs[0]
    _, channels, height, width = shapes[features]
    return Head(
        features,
        (channels, height, width),
        *_linear(data, hidden, weights),
        *_linear(data, last, weights),
        (last.inputs[1], last.inputs[2]),
        str(graph.inputs[0].shape[0]),
    )


def _made_by(nodes: dict[str, Node], tensor: str, operator: str) -> Node:
    node = nodes.get(tensor)
    if node is None or node.operator != operator:
        raise _strange(f"{tensor!a} is not made by {operator}")
    return node


def _linear(data: bytes, node: Node, weights: dict[str, Weight]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    operands = [weights.get(name) for name in node.inputs[1:]]
    if len(operands) != 2 or node.attributes.get("group", 1) != 1:
        raise _strange(f"{node.name!a} is not a linear layer with a bias")
    weight, bias = (_values(data, operand, node) for operand in operands)
    if weight.shape[2:] != (1, 1):
        raise _strange(f"{node.name!a} is not a linear layer")
    return weight.reshape(weight.shape[:2]), bias


def _values(data: bytes, weight: Weight | None, node: Node) -> NDArray[np.float32]:
    if weight is None or weight.raw is None or weight.data_type != FLOAT:
        raise _strange(f"{node.name!a} has no plain float32 weights")
    values = np.frombuffer(data, "<f4", (weight.raw[1] - weight.raw[0]) // 4, weight.raw[0])
    return values.reshape(weight.shape).copy()  # so that the file need not stay in memory


def _strange(reason: str) -> RefusedGraphError:
    return RefusedGraphError(f"does not end in pooling, linear, ReLU and linear as GhostNets do ({reason})")


def with_features(data: bytes, head: Head) -> bytes:
    """Return the graph with the tensor before the pooling as a third output, ``features`` (N, C, H, W) float32."""
    old, new = head.features.encode(), FEATURES_NAME.encode()

    def rename(number: int, span: Span, content: Span) -> bytes:
        if number != _NODE or old not in data[content[0] : content[1]]:
            return data[span[0] : span[1]]
        parts = (
            write_field(part, new) if part in (1, 2) and data[inner[0] : inner[1]] == old else data[whole[0] : whole[1]]
            for part, whole, inner in read_fields(data, content)
        )
        return write_field(_NODE, b"".join(parts))

    return _with_graph(data, rename, _value(head.batch, FEATURES_NAME, head.shape))


def with_classes(
    data: bytes, head: Head, weight: NDArray[np.float32], bias: NDArray[np.float32], model_name: str
) -> bytes:
    """Return the graph with another last layer: the same network with other classes.

    Args:
        data: the file that ``head`` was read from.
        head: its last layers.
        weight, bias: (classes, 1280) and (classes,) float32.
        model_name: goes into the graph's name and metadata.
    """
    tensors = {
        name.encode(): write_field(_INITIALIZER, _tensor(name, values))
        for name, values in zip(head.class_names, (weight[:, :, None, None], bias), strict=True)
    }
    output = write_field(_OUTPUT, _value(head.batch, LOGITS_NAME, (len(bias),)))

    def replace(number: int, span: Span, content: Span) -> bytes:
        if number == _NAME:
            return write_field(_NAME, model_name.encode())
        if number == _INITIALIZER:
            return tensors.get(_name_in(data, content, 8), data[span[0] : span[1]])
        if number == _OUTPUT and _name_in(data, content, 1) == LOGITS_NAME.encode():
            return output
        return data[span[0] : span[1]]

    return _with_graph(data, replace, None, model_name.encode())


def _with_graph(
    data: bytes, change: Callable[[int, Span, Span], bytes], output: bytes | None, model_name: bytes | None = None
) -> bytes:
    """Return the file with each field of its graph changed, one more output, and another name in its metadata."""
    parts = []
    for number, span, content in read_fields(data, (0, len(data))):
        if number == _GRAPH:
            graph = [change(*field) for field in read_fields(data, content)]
            if output is not None:
                graph.append(write_field(_OUTPUT, output))
            parts.append(write_field(_GRAPH, b"".join(graph)))
        elif number == _METADATA and model_name is not None and _name_in(data, content, 1) == _MODEL_KEY:
            parts.append(write_field(_METADATA, write_field(1, _MODEL_KEY) + write_field(2, model_name)))
        else:
            parts.append(data[span[0] : span[1]])
    return b"".join(parts)


def _name_in(data: bytes, message: Span, field: int) -> bytes:
    """Return the text in a field of a message."""
    return next((data[start:end] for number, _, (start, end) in read_fields(data, message) if number == field), b"")


def _tensor(name: str, values: NDArray[np.float32]) -> bytes:
    """A ``TensorProto``."""
    dims = b"".join(write_field(1, side) for side in values.shape)
    raw = np.ascontiguousarray(values, "<f4").tobytes()
    return dims + write_field(2, FLOAT) + write_field(8, name.encode()) + write_field(9, raw)


def _value(batch: str, name: str, shape: tuple[int, ...]) -> bytes:
    """A ``ValueInfoProto`` of float32, its first dimension the dynamic batch."""
    sides = [write_field(2, batch.encode()), *(write_field(1, side) for side in shape)]
    dims = b"".join(write_field(1, side) for side in sides)
    tensor = write_field(1, FLOAT) + write_field(2, dims)
    return write_field(1, name.encode()) + write_field(2, write_field(1, tensor))

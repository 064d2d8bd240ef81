"""What a graph must be before an engine sees it: a GhostNet's operators, its inputs and outputs, and a bounded cost.

Engines trust their graphs: external data reads files and memory of the process, and a few hundred bytes can ask for
gigabytes or for hours. Here the file is read as data (``graph_file``), its operators are held against a list
(``operators``), and the shape of every tensor is computed for one image. So what it can cost is known beforehand: with
N images at most N times ``MAX_ELEMENTS`` values and ``MAX_MULTIPLICATIONS``, and less for small images.
"""

from __future__ import annotations

import math

from ..errors import BundleError
from .architecture import EMBEDDING_NAME, EMBEDDING_SIZE, INPUT_NAME, LOGITS_NAME
from .graph_file import FLOAT, MAX_RANK, Graph, Node, Value, read_graph
from .operators import BATCH, OPERATORS, Operand, Operator, Shape
from .wire import RefusedGraphError

MAX_ELEMENTS = 2**28
"""Total values of all tensors for one image; GhostNet x1.3 has 12 million at 224 pixels."""
ELEMENTS_PER_PIXEL = 2048
"""Per pixel of the image: eight times those of GhostNet x1.3."""
MAX_MULTIPLICATIONS = 2**36
"""For one image; GhostNet x1.3 has 230 million at 224 pixels."""
MULTIPLICATIONS_PER_PIXEL = 2**16
"""Per pixel of the image: fourteen times those of GhostNet x1.3."""
_SMALL_IMAGE = 64 * 64
"""Below this many pixels the cost depends on the channels, and is not compared with the image."""
_WIDENINGS = 4
"""How many times the size of the weights may be computed from them: int8 weights take two steps to float32."""
_CHANNEL_BLOCK = 16
"""Engines store tensors in blocks of up to this many channels, padded if need be."""


def check_graph(data: bytes, file: str, *, num_classes: int, image_size: int) -> None:
    """Check that an ONNX file is a classifier that engines may open.

    Args:
        data: the file.
        file: its name, for messages.
        num_classes: width of ``logits``.
        image_size: side of the square input in pixels.

    Raises:
        BundleError: it is something else.
    """
    try:
        check_network(read_graph(data), num_classes=num_classes, image_size=image_size)
    except RefusedGraphError as fault:
        raise BundleError(f"{file} {fault}; do not use this bundle.") from None


def check_network(graph: Graph, *, num_classes: int, image_size: int) -> dict[str, Shape]:
    """Check a graph that was read already, from any kind of file; return the shape of every tensor by its name.

    Raises:
        RefusedGraphError: it is no classifier that engines may open.
    """
    _check_input(graph, image_size)
    tensors = _infer_shapes(graph, image_size)
    _check_outputs(graph, tensors, num_classes)
    return {name: tensor.shape for name, tensor in tensors.items()}


def _check_input(graph: Graph, image_size: int) -> None:
    expected = (3, image_size, image_size)
    if [value.name for value in graph.inputs] != [INPUT_NAME]:
        raise RefusedGraphError(f"takes {_names(graph.inputs)}, not {INPUT_NAME} alone")
    _check_value(graph.inputs[0], expected)


def _check_outputs(graph: Graph, shapes: dict[str, Operand], num_classes: int) -> None:
    widths = {LOGITS_NAME: num_classes, EMBEDDING_NAME: EMBEDDING_SIZE}
    if sorted(value.name for value in graph.outputs) != sorted(widths):
        raise RefusedGraphError(f"gives {_names(graph.outputs)}, not {' and '.join(widths)}")
    for value in graph.outputs:
        width = widths[value.name]
        _check_value(value, (width,))
        found = shapes[value.name].shape if value.name in shapes else ()
        if found != (BATCH, width):
            raise RefusedGraphError(f"gives {value.name} of shape {_shown(found)}, not (N, {width})")


def _check_value(value: Value, rest: Shape) -> None:
    if value.data_type != FLOAT or value.shape[1:] != rest or not isinstance(value.shape[0], str):
        raise RefusedGraphError(f"declares {value.name} other than as float32 of shape {_shown((BATCH, *rest))}")


def _names(values: tuple[Value, ...]) -> str:
    return ", ".join(ascii(value.name) for value in values[:5]) or "nothing"


def _shown(shape: Shape) -> str:
    return "(" + ", ".join("N" if side == BATCH else str(side) for side in shape) + ")"


def _infer_shapes(graph: Graph, image_size: int) -> dict[str, Operand]:
    """Return every tensor by its name."""
    tensors = {INPUT_NAME: Operand((BATCH, 3, image_size, image_size))}
    for weight in graph.weights:
        _add(tensors, weight.name, Operand(weight.shape, weight.floats))
    pixels = max(image_size**2, _SMALL_IMAGE)
    cost = _Cost(
        min(MAX_ELEMENTS, ELEMENTS_PER_PIXEL * pixels),
        min(MAX_MULTIPLICATIONS, MULTIPLICATIONS_PER_PIXEL * pixels),
        _WIDENINGS * sum(math.prod(weight.shape) for weight in graph.weights),
    )
    for node in graph.nodes:
        operator = _admitted(node)
        operands = [_operand(tensors, name, node) for name in node.inputs]
        shape = operator.infer(operands, node.attributes)
        if BATCH in shape[1:] or len(shape) > MAX_RANK:
            raise RefusedGraphError(f"has the node {node.name!a} that mixes images of a batch")
        cost.count(node, operands, shape)
        _add(tensors, node.outputs[0], Operand(shape))
    return tensors


def _admitted(node: Node) -> Operator:
    operator = OPERATORS.get(node.operator)
    if operator is None:
        raise RefusedGraphError(f"has the operator {node.operator!a}, which a GhostNet does not need")
    for name, value in node.attributes.items():
        kind = operator.attributes.get(name)
        if kind is None:
            raise RefusedGraphError(f"has {node.operator} with the attribute {name!a}, which a GhostNet does not need")
        if not isinstance(value, kind):
            raise RefusedGraphError(f"has {node.operator} with the attribute {name!a} of the wrong type")
    if not operator.least <= len(node.inputs) <= operator.most or len(node.outputs) != 1:
        raise RefusedGraphError(f"has {node.operator} with {len(node.inputs)} inputs and {len(node.outputs)} outputs")
    return operator


def _operand(tensors: dict[str, Operand], name: str, node: Node) -> Operand | None:
    if not name:  # left out
        return None
    if name not in tensors:
        raise RefusedGraphError(f"has the node {node.name!a} that takes {name!a} before it is computed")
    return tensors[name]


def _add(tensors: dict[str, Operand], name: str, tensor: Operand) -> None:
    if not name or name in tensors:
        raise RefusedGraphError(f"has two tensors of the name {name!a}")
    tensors[name] = tensor


class _Cost:
    """Adds up the cost of nodes for one image, and refuses what exceeds the limits."""

    def __init__(self, values: int, multiplications: int, weights: int) -> None:
        self._left = {"values in its tensors": values, "multiplications": multiplications, "computed weights": weights}

    def count(self, node: Node, operands: list[Operand | None], shape: Shape) -> None:
        if BATCH not in shape:
            self._take("computed weights", math.prod(shape))
            return
        channels, pixels = shape[1], math.prod(shape[2:])
        blocked = -(-channels // _CHANNEL_BLOCK) * _CHANNEL_BLOCK
        self._take("values in its tensors", blocked * pixels)
        weight = operands[1] if node.operator == "Conv" else None
        if weight is not None:
            each = math.prod(weight.shape[1:])
            self._take("multiplications", each * channels * pixels)
            self._take("values in its tensors", 0 if each == weight.shape[1] else each * pixels)  # unrolled

    def _take(self, what: str, number: int) -> None:
        self._left[what] -= number
        if self._left[what] < 0:
            raise RefusedGraphError(f"needs more {what} than a GhostNet for images of its size")

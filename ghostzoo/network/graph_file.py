"""An ONNX file -> nodes and the shapes of its tensors, read as data without ``onnx``; weights are passed over.

What reads files or memory (external data), runs other graphs (subgraphs, functions) or has no place in a classifier is
refused here, each in a sentence of its own. Numbers of fields: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .wire import Field, Kind, RefusedGraphError, Schema, Span, read_message, schema

MAX_NODES = 4096
"""Up to 900 in the int8 graph of the widest GhostNet."""
MAX_TENSORS = 8192
MAX_RANK = 4
MAX_OPERANDS = 64
MAX_TYPED_VALUES = 4096
"""Values that are not in ``raw_data``: scales, zero points and biases, as ONNX Runtime's quantiser writes them."""
_IR_VERSIONS = range(7, 14)
_OPSETS = range(13, 25)

FLOAT, FLOAT16 = 1, 10
_WIDTHS = {FLOAT: 4, 2: 1, 3: 1, 6: 4, FLOAT16: 2}  # with uint8, int8 and int32: bytes of a value
_RANGES = {2: range(256), 3: range(-128, 128), 6: range(-(2**31), 2**31), FLOAT16: range(2**16)}
"""What ``int32_data`` may hold, by type."""


@dataclass(frozen=True)
class Value:
    """An input or output of the graph."""

    name: str
    data_type: int
    shape: tuple[int | str, ...]
    """Sizes, or names of dynamic sizes."""


@dataclass(frozen=True)
class Weight:
    """A tensor in the file."""

    name: str
    data_type: int
    shape: tuple[int, ...]
    floats: tuple[float, ...] | None
    """The values of a float32 tensor of at most ``MAX_RANK``."""
    raw: Span | None = None
    """Where all its values are in the file, where they are there as raw bytes."""


@dataclass(frozen=True)
class Node:
    """An operation."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """The contents of a file."""

    nodes: tuple[Node, ...]
    weights: tuple[Weight, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def _text(name: str) -> Field:
    return Field(name, Kind.TEXT)


def _int(name: str) -> Field:
    return Field(name, Kind.INT)


def _span(name: str) -> Field:
    return Field(name, Kind.SPAN)


def _spans(name: str, most: int) -> Field:
    return Field(name, Kind.SPAN, most)


_MODEL = schema(
    {
        **{1: _int("ir_version"), 2: _text("producer_name"), 3: _text("producer_version"), 4: _text("domain")},
        **{5: _int("model_version"), 6: _span("doc_string"), 7: _span("graph")},
        **{8: _spans("opset_import", 4), 14: _spans("metadata_props", 64)},
    }
)
_OPSET = schema({1: _text("domain"), 2: _int("version")})
_METADATA = schema({1: _text("key"), 2: _text("value")})
_GRAPH = schema(
    {
        **{1: _spans("node", MAX_NODES), 2: _text("name"), 5: _spans("initializer", MAX_TENSORS)},
        **{10: _span("doc_string"), 11: _spans("input", 16), 12: _spans("output", 16)},
    }
)
_NODE = schema(
    {
        **{1: Field("input", Kind.TEXT, MAX_OPERANDS), 2: Field("output", Kind.TEXT, 1), 3: _text("name")},
        **{4: _text("op_type"), 5: _spans("attribute", 16), 6: _span("doc_string"), 7: _text("domain")},
    }
)
_ATTRIBUTE = schema(
    {
        **{1: _text("name"), 3: _int("i"), 4: _text("s")},
        **{8: Field("ints", Kind.INT, 2 * MAX_RANK), 13: _span("doc_string"), 20: _int("type")},
    }
)
_TENSOR = schema(
    {
        **{1: Field("dims", Kind.INT, MAX_RANK), 2: _int("data_type"), 8: _text("name"), 9: _span("raw_data")},
        **{4: Field("float_data", Kind.FLOAT, MAX_TYPED_VALUES), 5: Field("int32_data", Kind.INT, MAX_TYPED_VALUES)},
        **{12: _span("doc_string"), 14: _int("data_location")},
    }
)
_VALUE = schema({1: _text("name"), 2: _span("type"), 3: _span("doc_string")})
_TYPE = schema({1: _span("tensor")})
_TENSOR_TYPE = schema({1: _int("elem_type"), 2: _span("shape")})
_SHAPE = schema({1: _spans("dim", MAX_RANK)})
_DIMENSION = schema({1: _int("value"), 2: _text("name")})

_EXTERNAL = "has external data, which is read from files or from the memory of the process"
_SUBGRAPH = "has a branch or loop (a graph within the graph), which a GhostNet does not need"
_REFUSED: Mapping[int, Mapping[int, str]] = {
    id(_MODEL): {
        20: "has training information, which is not for prediction",
        25: "has functions of its own, which a GhostNet does not need",
    },
    id(_GRAPH): {
        13: "declares shapes of tensors between its nodes, which engines are to find themselves",
        14: "has quantization annotations, which a GhostNet does not need",
        15: "has sparse tensors, which a GhostNet does not need",
    },
    id(_ATTRIBUTE): {
        **{6: _SUBGRAPH, 11: _SUBGRAPH},
        **dict.fromkeys((5, 10), "has a tensor within a node, which a GhostNet does not need"),
        **dict.fromkeys((22, 23), "has a sparse tensor within a node, which a GhostNet does not need"),
        **dict.fromkeys((14, 15), "has a type within a node, which a GhostNet does not need"),
        21: "has an attribute of a function, which a GhostNet does not need",
    },
    id(_TENSOR): {
        13: _EXTERNAL,
        3: "has a tensor in segments, which a GhostNet does not need",
        6: "has a tensor of text, which a GhostNet does not need",
    },
}
_ATTRIBUTE_FIELDS = {2: "i", 3: "s", 7: "ints"}
"""AttributeProto.type -> the field that holds the value."""


def read_graph(data: bytes) -> Graph:
    """Read an ONNX file.

    Raises:
        RefusedGraphError: it is damaged, or has content that is not allowed.
    """
    model = _read(data, (0, len(data)), _MODEL)
    if model.get("ir_version") not in _IR_VERSIONS:
        raise RefusedGraphError(f"has no ir_version from {_IR_VERSIONS[0]} to {_IR_VERSIONS[-1]}")
    opsets = [_read(data, span, _OPSET) for span in model.get("opset_import", ())]
    domains = [opset.get("domain", "") for opset in opsets]
    if domains != [""]:
        raise RefusedGraphError(f"needs other operators than ONNX's own ({', '.join(map(ascii, domains)) or 'none'})")
    if opsets[0].get("version") not in _OPSETS:
        raise RefusedGraphError(f"has no opset version from {_OPSETS[0]} to {_OPSETS[-1]}")
    for span in model.get("metadata_props", ()):
        _read(data, span, _METADATA)
    if "graph" not in model:
        raise RefusedGraphError("holds no graph")
    graph = _read(data, model["graph"], _GRAPH)
    known: dict[bytes, tuple[str, Any]] = {}  # convolutions have few different attributes
    return Graph(
        tuple(_node(data, span, known) for span in graph.get("node", ())),
        tuple(_weight(data, span) for span in graph.get("initializer", ())),
        tuple(_value(data, span) for span in graph.get("input", ())),
        tuple(_value(data, span) for span in graph.get("output", ())),
    )


def _read(data: bytes, span: Span, fields: Schema) -> dict[str, Any]:
    return read_message(data, span, fields, _REFUSED.get(id(fields), {}))


def _node(data: bytes, span: Span, known: dict[bytes, tuple[str, Any]]) -> Node:
    found = _read(data, span, _NODE)
    operator = found.get("op_type", "")
    if found.get("domain"):
        raise RefusedGraphError(f"has the operator {operator!a} of {found['domain']!a}, which a GhostNet does not need")
    attributes: dict[str, Any] = {}
    for start, end in found.get("attribute", ()):
        content = data[start:end]
        if content not in known:
            known[content] = _attribute(data, (start, end), operator)
        name, value = known[content]
        if name in attributes:
            raise RefusedGraphError(f"has the attribute {name!a} twice at a node {operator!a}")
        attributes[name] = value
    return Node(
        found.get("name", ""), operator, tuple(found.get("input", ())), tuple(found.get("output", ())), attributes
    )


def _attribute(data: bytes, span: Span, operator: str) -> tuple[str, Any]:
    found = _read(data, span, _ATTRIBUTE)
    name = found.get("name", "")
    values = [field for field in _ATTRIBUTE_FIELDS.values() if field in found]
    if not name or values != [_ATTRIBUTE_FIELDS.get(found.get("type", 0))]:
        raise RefusedGraphError(
            f"has an attribute {name!a} at a node {operator!a} whose value is not of the type it names"
        )
    value = found[values[0]]
    return name, tuple(value) if isinstance(value, list) else value


def _weight(data: bytes, span: Span) -> Weight:
    found = _read(data, span, _TENSOR)
    name, data_type, shape = found.get("name", ""), found.get("data_type", 0), tuple(found.get("dims", ()))
    if found.get("data_location", 0) != 0:
        raise RefusedGraphError(_EXTERNAL)
    if not name or data_type not in _WIDTHS:
        raise RefusedGraphError(f"has the tensor {name!a} of data type {data_type}, which a GhostNet does not need")
    if any(side < 1 for side in shape):
        raise RefusedGraphError(f"has the tensor {name!a} of the impossible shape {shape}")
    count = math.prod(shape)
    given = [field for field in ("raw_data", "float_data", "int32_data") if field in found]
    typed = "float_data" if data_type == FLOAT else "int32_data"
    if given == ["raw_data"]:
        start, end = found["raw_data"]
        fits = end - start == count * _WIDTHS[data_type]
    else:
        fits = given == [typed] and len(found[typed]) == count
    if not fits:
        raise RefusedGraphError(
            f"has the tensor {name!a} of shape {shape} with other data than its shape and type need"
        )
    if "int32_data" in found:
        _check_range(found["int32_data"], data_type, name)
    floats = None
    if data_type == FLOAT and count <= MAX_RANK:
        floats = tuple(found["float_data"] if "float_data" in found else struct.unpack_from(f"<{count}f", data, start))
    return Weight(name, data_type, shape, floats, found.get("raw_data"))


def _check_range(values: Iterable[int], data_type: int, name: str) -> None:
    admitted = _RANGES[data_type]
    if not all(value in admitted for value in values):
        raise RefusedGraphError(f"has the tensor {name!a} with values that its type does not have")


def _value(data: bytes, span: Span) -> Value:
    found = _read(data, span, _VALUE)
    name = found.get("name", "")
    kind = _read(data, found.get("type", (0, 0)), _TYPE)
    tensor = _read(data, kind.get("tensor", (0, 0)), _TENSOR_TYPE)
    if "shape" not in tensor:
        raise RefusedGraphError(f"has the input or output {name!a} without the shape of a tensor")
    shape: list[int | str] = []
    for part in _read(data, tensor["shape"], _SHAPE).get("dim", ()):
        sizes = list(_read(data, part, _DIMENSION).values())
        if len(sizes) != 1:
            raise RefusedGraphError(f"has the input or output {name!a} with a size that is neither a number nor a name")
        shape.append(sizes[0])
    return Value(name, tensor.get("elem_type", 0), tuple(shape))

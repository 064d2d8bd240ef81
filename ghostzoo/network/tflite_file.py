"""LiteRT's file, read as data: its tensors and operators, with every position and size that the library will follow.

What a GhostNet needs is admitted, and nothing else; what the network computes is ``tflite_check``'s.

Schema: https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .architecture import EMBEDDING_NAME, INPUT_NAME, LOGITS_NAME
from .flatbuffer import Field, FlatBuffer, Kind, Schema
from .graph_file import MAX_NODES, MAX_OPERANDS, MAX_RANK, MAX_TENSORS, MAX_TYPED_VALUES
from .wire import RefusedGraphError, Span

_IDENTIFIER = b"TFL3"
_VERSION = 3
FLOAT32, INT32, INT8 = 0, 2, 9
_VALUE_BYTES = {FLOAT32: 4, INT32: 4, INT8: 1}
_SMALLEST_SCALE, _LARGEST_SCALE = 2.0**-126, 2.0**32
SAME = 0
"""Padding that keeps the size; the other one is none."""
_NONE, _RELU = 0, 1


def _tables(name: str, most: int) -> Field:
    return Field(name, Kind.TABLES, most)


def _ints(name: str, most: int) -> Field:
    return Field(name, Kind.INTS, most)


def _byte(name: str) -> Field:
    return Field(name, Kind.BYTE)


def _int(name: str) -> Field:
    return Field(name, Kind.INT)


_MODEL: Schema = {
    0: Field("version", Kind.UINT),
    1: _tables("operator_codes", MAX_OPERANDS),
    2: _tables("subgraphs", 1),
    3: Field("description", Kind.TEXT),
    4: _tables("buffers", MAX_TENSORS),
    7: _tables("signature_defs", 1),
}
_OPERATOR_CODE: Schema = {0: _byte("deprecated_builtin_code"), 2: _int("version"), 3: _int("builtin_code")}
_GRAPH: Schema = {
    0: _tables("tensors", MAX_TENSORS),
    1: _ints("inputs", 1),
    2: _ints("outputs", 2),
    3: _tables("operators", MAX_NODES),
    4: Field("name", Kind.TEXT),
}
_TENSOR: Schema = {
    0: _ints("shape", MAX_RANK),
    1: _byte("type"),
    2: Field("buffer", Kind.UINT),
    3: Field("name", Kind.TEXT),
    4: Field("quantization", Kind.TABLE),
}
_QUANTIZATION: Schema = {
    2: Field("scale", Kind.FLOATS, MAX_TYPED_VALUES),
    3: Field("zero_point", Kind.LONGS, MAX_TYPED_VALUES),
    6: _int("axis"),
}
_OPERATOR: Schema = {
    0: Field("opcode_index", Kind.UINT),
    1: _ints("inputs", MAX_OPERANDS),
    2: _ints("outputs", 1),
    3: _byte("options_type"),
    4: Field("options", Kind.TABLE),
}
_BUFFER: Schema = {0: Field("data", Kind.SPAN)}
_SIGNATURE: Schema = {
    0: _tables("inputs", 1),
    1: _tables("outputs", 2),
    2: Field("signature_key", Kind.TEXT),
    4: Field("subgraph_index", Kind.UINT),
}
_TENSOR_MAP: Schema = {0: Field("name", Kind.TEXT), 1: Field("tensor_index", Kind.UINT)}


@dataclass(frozen=True)
class _Form:
    """What is admitted of an operator."""

    code: int
    inputs: int
    """How many it has; 0 for any number."""
    options_type: int = 0
    options: Schema = field(default_factory=dict)


_ACTIVATION = _byte("activation")
_CONV: Schema = {0: _byte("padding"), 1: _int("stride_w"), 2: _int("stride_h")}
_FORMS: Mapping[str, _Form] = {
    "ADD": _Form(0, 2, 11, {0: _ACTIVATION}),
    "AVERAGE_POOL_2D": _Form(1, 1, 5, {**_CONV, 3: _int("filter_w"), 4: _int("filter_h"), 5: _ACTIVATION}),
    "CONCATENATION": _Form(2, 0, 10, {0: _int("axis"), 1: _ACTIVATION}),
    "CONV_2D": _Form(3, 3, 1, {**_CONV, 3: _ACTIVATION}),
    "DEPTHWISE_CONV_2D": _Form(4, 3, 2, {**_CONV, 3: _int("depth_multiplier"), 4: _ACTIVATION}),
    "DEQUANTIZE": _Form(6, 1, 38),
    "LOGISTIC": _Form(14, 1),
    "MEAN": _Form(40, 2, 27, {0: _byte("keep_dims")}),
    "MUL": _Form(18, 2, 21, {0: _ACTIVATION}),
    "PAD": _Form(34, 2, 22),
    "QUANTIZE": _Form(114, 1, 89),
    "RELU": _Form(19, 1),
    "RELU_0_TO_1": _Form(152, 1),
    "RESHAPE": _Form(22, 2, 17, {0: _ints("new_shape", 2)}),
    "RESIZE_NEAREST_NEIGHBOR": _Form(97, 2, 74, {0: _byte("align_corners"), 1: _byte("half_pixel_centers")}),
}
_KINDS = {form.code: kind for kind, form in _FORMS.items()}


@dataclass(frozen=True)
class Quantization:
    """How numbers are stored as integers."""

    scales: tuple[float, ...]
    """One of what is computed, one for each channel of a constant."""
    zero_points: tuple[int, ...]
    axis: int
    """Of the channels."""


@dataclass(frozen=True)
class Tensor:
    """A tensor, for one image."""

    name: str
    kind: int
    shape: tuple[int, ...]
    data: Span | None
    """Where its values stand, if the file has them."""
    quantization: Quantization | None
    """Of int8, and of biases in int32."""


@dataclass(frozen=True)
class Operator:
    """An operation."""

    kind: str
    inputs: list[int]
    output: int
    options: Mapping[str, Any]


class Network:
    """What a file holds, with all positions in its lists checked."""

    def __init__(self, data: bytes) -> None:
        """Read a file.

        Raises:
            RefusedGraphError: it is damaged, or holds what is not admitted.
        """
        self._file = FlatBuffer(data)
        model = self._file.read(self._file.root(_IDENTIFIER), _MODEL)
        if model.get("version") != _VERSION or len(model.get("subgraphs", ())) != 1:
            raise RefusedGraphError("is not a LiteRT network, or one of another version")
        graph = self._file.read(model["subgraphs"][0], _GRAPH)
        buffers = [self._file.read(item, _BUFFER).get("data") for item in model.get("buffers", ())]
        self._kinds = [self._kind(item) for item in model.get("operator_codes", ())]
        self._left = dict(enumerate(buffers))
        if sum(end - start for start, end in filter(None, buffers)) > len(data):
            raise RefusedGraphError("has constants that share their values")
        self.tensors = [self._tensor(item) for item in graph.get("tensors", ())]
        self.inputs, self.outputs = (self._positions(graph.get(name, ())) for name in ("inputs", "outputs"))
        self.operators = [self._operator(item) for item in graph.get("operators", ())]
        names = [self.tensors[item].name for item in (*self.inputs, *self.outputs)]
        if sorted(names) != sorted((INPUT_NAME, LOGITS_NAME, EMBEDDING_NAME)) or names[0] != INPUT_NAME:
            raise RefusedGraphError(
                f"takes and gives {', '.join(map(ascii, names)) or 'nothing'}, not what is expected"
            )
        for item in model.get("signature_defs", ()):
            self._check_signature(item)

    def graph_name(self, tensor: int) -> str:
        """Name of a tensor in the translated graph: its own may be another's, too."""
        if tensor in self.inputs or tensor in self.outputs:
            return self.tensors[tensor].name
        return f"tensor {tensor}"

    def _kind(self, position: int) -> str:
        found = self._file.read(position, _OPERATOR_CODE)
        code = max(found.get("deprecated_builtin_code", 0), found.get("builtin_code", 0))  # as LiteRT does
        if code not in _KINDS:
            raise RefusedGraphError(f"has an operator that a GhostNet does not need (LiteRT's number {code})")
        return _KINDS[code]

    def _tensor(self, position: int) -> Tensor:
        found = self._file.read(position, _TENSOR)
        name, kind, shape = found.get("name", ""), found.get("type", FLOAT32), tuple(found.get("shape", ()))
        buffer = found.get("buffer", 0)
        if buffer not in self._left or kind not in _VALUE_BYTES or any(side < 1 for side in shape):
            raise RefusedGraphError(f"has the tensor {name!a} of a type, a shape or a place that is impossible")
        data: Span | None = self._left[buffer]
        if data is not None:
            del self._left[buffer]  # a constant has one tensor
            width = _VALUE_BYTES[kind]
            if data[1] - data[0] != width * math.prod(shape) or data[0] % width:
                raise RefusedGraphError(f"has the tensor {name!a} with other data than its shape and type need")
        quantization = self._quantization(found["quantization"]) if "quantization" in found else None
        if not _is_quantized_well(kind, shape, data, quantization):
            raise RefusedGraphError(f"has the tensor {name!a} with scales or zero points that do not go with it")
        return Tensor(name, kind, shape, data, quantization)

    def _quantization(self, position: int) -> Quantization | None:
        found = self._file.read(position, _QUANTIZATION)
        scales, zeros = tuple(found.get("scale", ())), tuple(found.get("zero_point", ()))
        return Quantization(scales, zeros, found.get("axis", 0)) if scales or zeros else None

    def _operator(self, position: int) -> Operator:
        found = self._file.read(position, _OPERATOR)
        index, outputs = found.get("opcode_index", 0), self._positions(found.get("outputs", ()))
        if index >= len(self._kinds) or len(outputs) != 1:
            raise RefusedGraphError("has an operator without its type or its output")
        kind = self._kinds[index]
        form, options = _FORMS[kind], {}
        if found.get("options_type", 0) != (form.options_type if "options" in found else 0):
            raise RefusedGraphError(f"has the operator {kind} with the options of another")
        if "options" in found:
            options = self._file.read(found["options"], form.options)
        if options.get("activation", _NONE) not in (_NONE, _RELU):
            raise RefusedGraphError(f"has the operator {kind} with an activation that a GhostNet does not need")
        inputs = self._positions(found.get("inputs", ()))
        if not inputs or (form.inputs and len(inputs) != form.inputs):
            raise RefusedGraphError(f"has the operator {kind} with {len(inputs)} inputs")
        return Operator(kind, inputs, outputs[0], options)

    def _positions(self, numbers: list[int]) -> list[int]:
        if not all(0 <= number < len(self.tensors) for number in numbers):
            raise RefusedGraphError("names a tensor that it does not have")
        return list(numbers)

    def _check_signature(self, position: int) -> None:
        found = self._file.read(position, _SIGNATURE)
        for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            maps = [self._file.read(item, _TENSOR_MAP) for item in found.get(side, ())]
            if [item.get("tensor_index", 0) for item in maps] != tensors:
                raise RefusedGraphError(f"has a signature with other {side} than its network")
        if found.get("subgraph_index", 0) != 0:
            raise RefusedGraphError("has a signature of another network")


def _is_quantized_well(kind: int, shape: tuple[int, ...], data: Span | None, found: Quantization | None) -> bool:
    """Whether the libraries find a scale for each number. There are no more scales than values in the file."""
    if found is None or kind == FLOAT32:
        return found is None and kind != INT8
    if len(found.scales) != len(found.zero_points):
        return False
    smallest = _SMALLEST_SCALE if kind == INT8 else 0  # those of biases are products
    if not all(smallest <= scale <= _LARGEST_SCALE for scale in found.scales):
        return False
    if data is None:  # one scale, so of no axis
        return kind == INT8 and len(found.scales) == 1 and found.axis == 0 and -128 <= found.zero_points[0] <= 127
    channels = shape[found.axis] if 0 <= found.axis < len(shape) else 0
    return len(found.scales) == channels and not any(found.zero_points)

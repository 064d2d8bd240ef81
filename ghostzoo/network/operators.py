"""The operators that graphs of the Ghost family have: what each takes, and the shape of what it gives.

A graph with any other is refused. None of them repeats or pads, or makes tensors of sizes that the graph computes, so
all shapes are known before an engine sees the graph. To admit another operator, give it a row in ``OPERATORS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .graph_file import FLOAT, FLOAT16
from .wire import RefusedGraphError

BATCH = 0
"""Stands for the batch size, the first dimension of each tensor that depends on the images. Weights have none."""
MAX_SIDE = 2**16
_FLOAT32 = 2.0**-22
"""Twice the relative error of a product in float32."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operand:
    """An input of a node."""

    shape: Shape
    floats: tuple[float, ...] | None = None
    """The values of a small float32 tensor of the file."""

    @property
    def is_weight(self) -> bool:
        return BATCH not in self.shape


Operands = Sequence[Operand | None]
Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Operator:
    """What is allowed of an operator."""

    infer: Callable[[Operands, Attributes], Shape]
    """Returns the output's shape; raises ``RefusedGraphError`` if inputs and attributes do not fit together."""
    least: int = 1
    """Required inputs."""
    most: int = 1
    attributes: Mapping[str, type] = field(default_factory=dict)
    """Allowed attributes and their types; ``tuple`` is one of integers."""


def _same(operands: Operands, _: Attributes) -> Shape:
    return _first(operands).shape


def _broadcast(operands: Operands, _: Attributes) -> Shape:
    left, right = (list(operand.shape) for operand in operands if operand is not None)
    missing = len(left) - len(right)
    left, right = [1] * -missing + left, [1] * missing + right
    result = []
    for one, other in zip(left, right, strict=True):
        if one != other and 1 not in (one, other):
            raise RefusedGraphError("adds or multiplies tensors of shapes that do not go together")
        result.append(other if one == 1 else one)
    return tuple(result)


def _concat(operands: Operands, attributes: Attributes) -> Shape:
    shapes = [operand.shape for operand in operands if operand is not None]
    rest = {(shape[:1], shape[2:]) for shape in shapes}
    if attributes.get("axis") != 1 or len(rest) != 1 or any(len(shape) < 2 for shape in shapes):
        raise RefusedGraphError("joins tensors other than by channels")
    return (*shapes[0][:1], sum(shape[1] for shape in shapes), *shapes[0][2:])


def _conv(operands: Operands, attributes: Attributes) -> Shape:
    x, weight = _image(operands), operands[1]
    if weight is None or not weight.is_weight or len(weight.shape) != 4:
        raise RefusedGraphError("has a convolution without a weight of its own")
    channels, depth, *kernel = weight.shape
    bias = operands[2].shape if len(operands) > 2 and operands[2] is not None else (channels,)
    group = attributes.get("group", 1)
    strides, dilations = (attributes.get(name, (1, 1)) for name in ("strides", "dilations"))
    pads = attributes.get("pads", (0, 0, 0, 0))
    lengths = (len(strides), len(dilations), len(pads))
    if attributes.get("kernel_shape", tuple(kernel)) != tuple(kernel) or bias != (channels,) or lengths != (2, 2, 4):
        raise RefusedGraphError("has a convolution whose weight, bias and attributes do not go together")
    if group < 1 or depth * group != x[1] or channels % group:
        raise RefusedGraphError("has a convolution whose weight does not fit its input's channels")
    sides = []
    for side, length, stride, dilation, before, after in zip(
        x[2:], kernel, strides, dilations, pads[:2], pads[2:], strict=True
    ):
        reach = dilation * (length - 1) + 1
        if not 1 <= stride <= MAX_SIDE or dilation < 1 or not (0 <= before < reach and 0 <= after < reach):
            raise RefusedGraphError("has a convolution with impossible strides, dilations or pads")
        sides.append((side + before + after - reach) // stride + 1)
        if sides[-1] < 1 or reach > MAX_SIDE:
            raise RefusedGraphError("has a convolution that is larger than its input")
    return (x[0], channels, *sides)


def _pool(operands: Operands, _: Attributes) -> Shape:
    return (*_image(operands)[:2], 1, 1)


def _clip(operands: Operands, _: Attributes) -> Shape:
    if any(limit is not None and limit.shape not in ((), (1,)) for limit in operands[1:]):
        raise RefusedGraphError("clips by limits that are not single numbers")
    return _first(operands).shape


def _resize(operands: Operands, attributes: Attributes) -> Shape:
    x, region, scales = _image(operands), operands[1], operands[2]
    factors = scales.floats if scales is not None else None
    if region is not None or factors is None or len(factors) != 4 or factors[:2] != (1.0, 1.0):
        raise RefusedGraphError("resizes other than by two factors in the file")
    if not all(1 <= factor <= MAX_SIDE for factor in factors):
        raise RefusedGraphError("resizes by a factor below 1, or by one that is too large")
    if attributes.get("mode", "nearest") != "nearest":
        raise RefusedGraphError("resizes other than to the nearest pixel")
    return (*x[:2], _resized(x[2], factors[2]), _resized(x[3], factors[3]))


def _resized(side: int, factor: float) -> int:
    """An engine may multiply in float32 or in float64, and rounds the product down."""
    exact = side * factor
    error = exact * _FLOAT32
    if factor != int(factor) and math.floor(exact - error) != math.floor(exact + error):
        raise RefusedGraphError("resizes by a factor that gives one size or another, depending on how it is rounded")
    return math.floor(exact)


def _average(operands: Operands, attributes: Attributes) -> Shape:
    x = _image(operands)
    if attributes.get("kernel_shape") != (2, 2) or attributes.get("strides") != (2, 2) or min(x[2:]) < 2:
        raise RefusedGraphError("averages other than over 2 x 2 pixels")
    return (*x[:2], x[2] // 2, x[3] // 2)


def _flatten(operands: Operands, attributes: Attributes) -> Shape:
    x = _image(operands)
    if attributes.get("axis", 1) != 1:
        raise RefusedGraphError("flattens more than one image into one row")
    return x[0], math.prod(x[1:])


def _cast(operands: Operands, attributes: Attributes) -> Shape:
    if attributes.get("to") not in (FLOAT, FLOAT16):
        raise RefusedGraphError("converts to another type than float32 or float16")
    return _first(operands).shape


def _quantize(operands: Operands, attributes: Attributes) -> Shape:
    shape, scale = _first(operands).shape, operands[1]
    axis = attributes.get("axis", 1)
    channels = shape[axis] if 0 <= axis < len(shape) else 0
    zero = operands[2] if len(operands) > 2 else scale
    if scale is None or zero is None or scale.shape != zero.shape or scale.shape not in ((), (1,), (channels,)):
        raise RefusedGraphError("quantises by scales and zero points that do not go together")
    if not (scale.is_weight and zero.is_weight):
        raise RefusedGraphError("quantises by scales that depend on the image")
    return shape


def _first(operands: Operands) -> Operand:
    operand = operands[0]
    if operand is None:
        raise RefusedGraphError("has an operator without its input")
    return operand


def _image(operands: Operands) -> Shape:
    shape = _first(operands).shape
    if len(shape) != 4 or shape[0] != BATCH:
        raise RefusedGraphError("convolves, pools, resizes or flattens what is not a batch of images")
    return shape


_CONV = {"dilations": tuple, "group": int, "kernel_shape": tuple, "pads": tuple, "strides": tuple}
_RESIZE = dict.fromkeys(("mode", "coordinate_transformation_mode", "nearest_mode"), str)

OPERATORS: Mapping[str, Operator] = {
    "Add": Operator(_broadcast, 2, 2),
    "AveragePool": Operator(_average, attributes={"kernel_shape": tuple, "strides": tuple}),
    "Cast": Operator(_cast, attributes={"to": int}),
    "Clip": Operator(_clip, 1, 3),
    "Concat": Operator(_concat, 1, 64, {"axis": int}),
    "Conv": Operator(_conv, 2, 3, _CONV),
    "DequantizeLinear": Operator(_quantize, 2, 3, {"axis": int}),
    "Flatten": Operator(_flatten, attributes={"axis": int}),
    "GlobalAveragePool": Operator(_pool),
    "Mul": Operator(_broadcast, 2, 2),
    "QuantizeLinear": Operator(_quantize, 2, 3, {"axis": int}),
    "Relu": Operator(_same),
    "Resize": Operator(_resize, 3, 3, _RESIZE),
    "Sigmoid": Operator(_same),
}

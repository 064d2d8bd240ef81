"""Static int8 quantisation of a float32 graph, calibrated on real images.

The float32 graph is ``ghostzoo.network.graph``'s, whose node names tell which part of the network a node belongs to;
the plans below rely on them. int8 graphs are in QDQ format, which every engine reads: weights symmetric and per output
channel, activations per tensor, from their ranges on the images.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from ghostzoo.network.architecture import INPUT_NAME

_LARGEST_INT8 = 127


@dataclass(frozen=True)
class QuantizationPlan:
    """Which part of the network computes in int8; the rest also has int8 weights, but computes in float32."""

    name: str
    description: str
    operators: tuple[str, ...] | None
    """Operators that compute in int8; ``None``: all that have an int8 form."""
    in_int8: Callable[[str], bool]
    """Whether the node of this name may compute in int8."""


def _is_backbone(node: str) -> bool:
    """Neither gates nor the head, which take little time in float32 and lose most in int8."""
    return not any(gate in node for gate in (".se.", ".attention.")) and not node.startswith("head.")


def _is_wide_convolution(node: str) -> bool:
    """The 1x1 convolutions that do most of the arithmetic and are followed by a ReLU or an addition."""
    return ".ghost1.primary" in node or ".shortcut.pointwise" in node


PLANS = (
    QuantizationPlan(
        "backbone",
        "int8 weights and activations; gates and head compute in float32",
        None,
        _is_backbone,
    ),
    QuantizationPlan(
        "wide convolutions",
        "int8 weights; the 1x1 convolutions into ghost modules and shortcuts compute in int8, the rest in float32",
        ("Conv", "Relu"),
        _is_wide_convolution,
    ),
    QuantizationPlan("weights", "int8 weights; all computes in float32", (), lambda _: False),
)
"""From the fastest (on CPUs with int8 arithmetic) to the most accurate."""


def to_int8(model: bytes, plan: QuantizationPlan, batches: Callable[[], Iterator[NDArray[np.float32]]]) -> bytes:
    """Quantise a graph.

    Args:
        model: the float32 graph.
        plan: what computes in int8.
        batches: returns a new iterator over the calibration images, as (N, 3, H, W) float32 batches.
    """
    graph = onnx.load_from_string(model)
    excluded = [node.name for node in graph.graph.node if not plan.in_int8(node.name)]
    if len(excluded) < len(graph.graph.node):
        graph = _quantize_statically(graph, plan, excluded, batches())
    _shrink_weights(graph, set(excluded))
    return _serialized(graph)


def _quantize_statically(
    graph: onnx.ModelProto, plan: QuantizationPlan, excluded: list[str], batches: Iterator[NDArray[np.float32]]
) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="ghostzoo-quantize-") as folder, _quiet():
        out = Path(folder, "int8.onnx")
        quantize_static(
            onnx.shape_inference.infer_shapes(graph),
            out,
            _CalibrationReader(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(plan.operators) if plan.operators is not None else None,
            nodes_to_exclude=excluded,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,  # a ReLU's output uses all 256 values, so the ReLU itself can go
        )
        return onnx.load(out)


def _shrink_weights(model: onnx.ModelProto, nodes: set[str]) -> None:
    """Store the weights of ``nodes`` as int8, with one scale per output channel, and widen them in the graph.

    With Cast and Mul, not DequantizeLinear: engines fold these once, when they load the graph, and then compute as fast
    as with float32 weights, whereas ONNX Runtime would run a DequantizeLinear for every image.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    widening = []
    for node in model.graph.node:
        if node.name not in nodes or node.op_type != "Conv" or node.input[1] not in tensors:
            continue
        name = node.input[1]
        tensor = tensors.pop(name)
        values = numpy_helper.to_array(tensor)
        scale = np.abs(values).max(axis=(1, 2, 3), keepdims=True) / np.float32(_LARGEST_INT8)
        scale[scale == 0] = 1
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}.int8"),
                numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"),
            ]
        )
        widening += [
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.cast"], f"{name}.cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name], f"{name}.widen"),
        ]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*widening, *rest])


class _CalibrationReader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    def __init__(self, batches: Iterable[NDArray[np.float32]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's advice to run its own preprocessing first, which does not apply to this graph."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _serialized(model: onnx.ModelProto) -> bytes:
    del model.graph.value_info[:]  # engines infer the shapes themselves
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized

"""float32 graph -> float16 graph. Needs ``onnx``, so it is imported to make models, never to predict."""

from __future__ import annotations

import warnings

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel


def to_float16(model: bytes) -> bytes:
    """Convert a graph to float16; inputs and outputs stay float32."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # weights too small for float16 are rounded to its smallest numbers
        converted = convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True)
    OnnxModel.graph_topological_sort(converted.graph)  # the converter appends the Cast of the input at the end
    del converted.graph.value_info[:]  # engines infer the shapes themselves
    serialized: bytes = converted.SerializeToString(deterministic=True)
    return serialized

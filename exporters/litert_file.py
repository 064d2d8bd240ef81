"""LiteRT's file: tensors, constants and operators collected in its own schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

_FORMAT_VERSION = 3
_FILE_IDENTIFIER = b"TFL3"
_SIGNATURE = b"serving_default"
_LAST_DEPRECATED_CODE = 127
"""The field that older readers take an operator's code from ends here."""
_Code = schema.BuiltinOperator
_TYPES = {name: getattr(schema.TensorType, name.upper()) for name in ("float32", "int8", "int32")}
_INT8_VERSIONS = {
    **{_Code.ADD: 2, _Code.CONCATENATION: 2, _Code.PAD: 2, _Code.QUANTIZE: 2},
    **{_Code.CONV_2D: 3, _Code.DEPTHWISE_CONV_2D: 3, _Code.DEQUANTIZE: 5},
}
"""Versions of operators that take int8, from which readers tell whether they can run the file; others are 1."""


@dataclass(frozen=True)
class Quantization:
    """How numbers are stored as int8 or int32."""

    scales: NDArray[np.float32]
    """One, or one for each channel."""
    zero_point: int
    axis: int = 0
    """Of the channels."""


class LiteRtFile:
    """A file in the making; a tensor is its position in the file's list."""

    def __init__(self) -> None:
        self._buffers = [schema.BufferT()]  # the first is that of tensors without content, and has to be empty
        self._tensors: list[Any] = []
        self._quantizations: list[Quantization | None] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int], int] = {}

    def shape(self, tensor: int) -> list[int]:
        return list(self._tensors[tensor].shape)

    def quantization(self, tensor: int) -> Quantization | None:
        return self._quantizations[tensor]

    def tensor(self, name: str, shape: list[int], quantization: Quantization | None = None) -> int:
        """Add a tensor that is computed: float32, or int8 where it is quantised."""
        return self._add(name, shape, "float32" if quantization is None else "int8", 0, quantization)

    def constant(self, name: str, values: NDArray[Any], quantization: Quantization | None = None) -> int:
        """Add a tensor with these values, of float32, int8 or int32."""
        content = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._buffers.append(schema.BufferT(data=content))
        return self._add(name, list(values.shape), values.dtype.name, len(self._buffers) - 1, quantization)

    def operator(self, code: int, inputs: list[int], output: int, kind: int = 0, options: Any = None) -> int:
        """Add an operator and return its output; ``kind`` tells the type of its options."""
        is_int8 = any(self._tensors[item].type == schema.TensorType.INT8 for item in (*inputs, output))
        versioned = code, _INT8_VERSIONS.get(code, 1) if is_int8 else 1
        index = self._codes.setdefault(versioned, len(self._codes))
        self._operators.append(
            schema.OperatorT(
                opcodeIndex=index, inputs=inputs, outputs=[output], builtinOptionsType=kind, builtinOptions=options
            )
        )
        return output

    def serialize(self, inputs: Mapping[str, int], outputs: Mapping[str, int], description: str) -> bytes:
        """Return the file; the same calls give the same bytes."""
        graph = schema.SubGraphT(
            tensors=self._tensors,
            inputs=list(inputs.values()),
            outputs=list(outputs.values()),
            operators=self._operators,
            name=b"main",
        )
        signature = schema.SignatureDefT(
            inputs=_named(inputs), outputs=_named(outputs), signatureKey=_SIGNATURE, subgraphIndex=0
        )
        codes = [
            schema.OperatorCodeT(
                deprecatedBuiltinCode=min(code, _LAST_DEPRECATED_CODE), builtinCode=code, version=version
            )
            for code, version in self._codes
        ]
        model = schema.ModelT(
            version=_FORMAT_VERSION,
            operatorCodes=codes,
            subgraphs=[graph],
            buffers=self._buffers,
            description=description.encode(),
            signatureDefs=[signature],
        )
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), _FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _add(self, name: str, shape: list[int], kind: str, buffer: int, quantization: Quantization | None) -> int:
        written = None
        if quantization is not None:
            zeros = np.full(len(quantization.scales), quantization.zero_point, np.int64)
            written = schema.QuantizationParametersT(
                scale=quantization.scales, zeroPoint=zeros, quantizedDimension=quantization.axis
            )
        self._tensors.append(
            schema.TensorT(shape=shape, type=_TYPES[kind], buffer=buffer, name=name.encode(), quantization=written)
        )
        self._quantizations.append(quantization)
        return len(self._tensors) - 1


def _named(tensors: Mapping[str, int]) -> list[Any]:
    return [schema.TensorMapT(name=name.encode(), tensorIndex=tensor) for name, tensor in tensors.items()]

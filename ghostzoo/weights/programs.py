"""Checks Paddle's program and weight files as data, before Paddle reads them.

A program may contain any Paddle operator, and some read and write files or call back into Python. A GhostNet needs only
a few that compute; a program with any other is refused.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from typing import Any

from ..errors import WeightsError

MAX_PROGRAM_BYTES = 4 * 2**20
"""A GhostNet's program is smaller than 1 MB; parsed, it takes up to fifty times that."""
MAX_OPERATORS = 10_000
"""Limit for one program; a GhostNet has about 600."""

_COMPUTING = frozenset(
    {
        *("conv2d", "depthwise_conv2d", "batch_norm", "batch_norm_", "pool2d", "relu", "clip", "dropout", "softmax"),
        "sigmoid",  # at the end of multi-label models
        *("matmul", "matmul_v2", "mul", "elementwise_add", "elementwise_mul", "add", "multiply", "scale", "mean"),
        *("concat", "reshape", "reshape2", "squeeze", "squeeze2", "unsqueeze", "unsqueeze2", "assign"),
        *("flatten", "flatten_contiguous_range", "full", "full_int_array", "fill_constant", "combine", "parameter"),
        *("p", "feed", "data", "fetch", "builtin"),
    }
)
"""Operator names in old and new programs; in new ones ``p`` is a parameter and ``combine`` a list of tensors."""
_MAX_SHOWN = 60
# Version, number of LoD levels, tensor version, size of the description; the description and the data follow.
_TENSOR_HEADER = struct.Struct("<IQIi")
_MAX_TENSORS = 10_000
_MAX_DIMENSIONS = 8
_MAX_DESCRIPTION_BYTES = 128
"""A data type, and up to 10 bytes for each dimension."""


def check_operators(names: Iterable[str]) -> None:
    """Check the operators of a program.

    Raises:
        WeightsError: a GhostNet does not need one of them.
    """
    strange = sorted(set(names) - _COMPUTING)
    if strange:
        shown = ", ".join(ascii(name[:_MAX_SHOWN]) for name in strange[:5])
        raise WeightsError(f"its program has operators that a GhostNet does not need and that are not run: {shown}.")


def check_count(operators: int) -> None:
    """Check the number of a program's operators.

    Raises:
        WeightsError: no GhostNet has so many.
    """
    if operators > MAX_OPERATORS:
        raise WeightsError(f"its program has {operators} operators, more than the {MAX_OPERATORS} that are read.")


def json_operators(content: Any) -> list[Any]:
    """Return the operators of a parsed program of Paddle 3, checked.

    Raises:
        WeightsError: a GhostNet does not need some of them.
        Exception: of any kind, if the program is damaged.
    """
    (region,) = content["program"]["regions"]
    (block,) = region["blocks"]
    operators: list[Any] = block["ops"]
    check_count(len(operators))
    # Operator names come after a dialect's number, as in "1.conv2d". Those with regions are control flow.
    check_operators(name.partition(".")[2] or name for name in (operator["#"] for operator in operators))
    if any("regions" in operator for operator in operators):
        raise WeightsError("its program has branches or loops, which a GhostNet does not need.")
    return operators


def check_json_program(data: bytes) -> bytes:
    """Check a program of Paddle 3 and return it re-serialised, so that Paddle cannot parse it differently.

    Raises:
        WeightsError: the program is damaged, or has operators that a GhostNet does not need.
    """
    if len(data) > MAX_PROGRAM_BYTES:
        raise WeightsError(f"its program has {len(data)} bytes, more than the {MAX_PROGRAM_BYTES} that are read.")
    try:
        content = json.loads(data)
        json_operators(content)
    except WeightsError:
        raise
    except Exception as error:  # json raises several kinds of errors, a damaged program many more
        raise WeightsError(f"its program is damaged ({shorten(error)}).") from error
    return json.dumps(content).encode()


def check_params(data: bytes) -> None:
    """Check that a ``.pdiparams`` file, of Paddle 2 or 3, is a sequence of float32 tensors that fills it exactly.

    Paddle itself does not check sizes and offsets.

    Raises:
        WeightsError: it is not.
    """
    from paddle.base.proto import framework_pb2

    position = count = 0
    try:
        while position < len(data):
            count += 1
            if count > _MAX_TENSORS:
                raise ValueError(f"it has more than {_MAX_TENSORS} tensors")
            version, levels, tensor_version, description_size = _TENSOR_HEADER.unpack_from(data, position)
            is_tensor = (version, levels, tensor_version) == (0, 0, 0)
            if not is_tensor or not 0 <= description_size <= _MAX_DESCRIPTION_BYTES:
                raise ValueError(f"no tensor starts at byte {position}")
            position += _TENSOR_HEADER.size
            description = framework_pb2.VarType.TensorDesc.FromString(data[position : position + description_size])
            if description.data_type != framework_pb2.VarType.FP32 or any(side < 0 for side in description.dims):
                raise ValueError(f"the tensor before byte {position} is not of float32")
            if len(description.dims) > _MAX_DIMENSIONS:
                raise ValueError(f"the tensor before byte {position} has {len(description.dims)} dimensions")
            position += description_size + 4 * math.prod(description.dims)
        if not data:
            raise ValueError("there are none")
        if position != len(data):
            raise ValueError(f"its tensors need {position} bytes, it has {len(data)}")
    except Exception as error:  # struct and protobuf have errors of their own
        raise WeightsError(f"its weights are damaged ({shorten(error)}); get the file again.") from error


def shorten(error: Exception) -> str:
    """Describe an error in one short line of ASCII."""
    return f"{type(error).__name__}: {ascii(str(error)[:200])[1:-1]}"

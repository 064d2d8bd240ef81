"""Tensors of the protocol: names, types, shapes and bytes, checked against each other before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..request_errors import RequestError, bad_request, too_large

PIXEL_VALUES = "pixel_values"
IMAGES = "images"
FP32 = "FP32"
BYTES = "BYTES"

Values = NDArray[np.float32] | list[bytes]
"""Of an input: (N, 3, H, W) float32, or N encoded images."""


@dataclass(frozen=True)
class InputSpec:
    """What an input must be."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """Minus one for the number of images."""


@dataclass(frozen=True)
class RequestedOutput:
    """An output that the client wants, and in which form."""

    name: str
    classification: int = 0
    """As strings ``score:index:label`` of this many best classes; 0 for the tensor itself."""
    binary: bool = False


@dataclass(frozen=True)
class OutputTensor:
    """An output."""

    name: str
    values: NDArray[Any]
    """float32, or an object array of ``str``."""
    binary: bool = False

    @property
    def datatype(self) -> str:
        return FP32 if self.values.dtype == np.float32 else BYTES

    def to_bytes(self) -> bytes:
        """Return the values in the binary form of both carriers."""
        if self.datatype == FP32:
            return self.values.astype("<f4", copy=False).tobytes()
        return b"".join(len(text).to_bytes(4, "little") + text for text in self.encoded())

    def encoded(self) -> list[bytes]:
        return [str(text).encode() for text in self.values.ravel()]


def count_elements(spec: InputSpec, datatype: str, shape: Sequence[int], max_images: int) -> int:
    """Return how many values an input of this type and shape has.

    Raises:
        RequestError: it is not what ``spec`` says, or has more images than one call may.
    """
    shown = f"{datatype[:20]} {list(shape)[:8]}"
    if spec.datatype == BYTES and len(shape) == 2 and shape[1] == 1:  # as batching clients of Triton send them
        shape = shape[:1]
    fits = len(shape) == len(spec.shape) and all(
        want in (-1, size) for want, size in zip(spec.shape, shape, strict=True)
    )
    if datatype != spec.datatype or not fits:
        raise bad_request(f"{spec.name} must be {spec.datatype} {list(spec.shape)}, not {shown}.")
    if shape[0] < 1:
        raise bad_request(f"{spec.name} holds no image: its shape is {list(shape)}.")
    if shape[0] > max_images:
        raise too_large(f"{spec.name} has {shape[0]} images, one call takes {max_images}; send them in several.")
    return math.prod(shape)


def from_bytes(spec: InputSpec, shape: Sequence[int], elements: int, data: bytes | memoryview) -> Values:
    """Read the binary form of an input.

    Raises:
        RequestError: there are more or fewer bytes than the shape says.
    """
    if spec.datatype == BYTES:
        return _split_bytes(spec, elements, data)
    if len(data) != 4 * elements:
        raise bad_request(f"{spec.name} has {len(data)} bytes, but its shape {list(shape)} needs {4 * elements}.")
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False).reshape(tuple(shape))


def from_values(spec: InputSpec, shape: Sequence[int], elements: int, values: Iterable[Any]) -> Values:
    """Take numbers (nested or flat) or encoded images.

    Raises:
        RequestError: they are more or fewer than the shape says, or of another kind.
    """
    if spec.datatype == BYTES:
        images = list(values)
        if len(images) != elements:
            raise _wrong_count(spec, len(images), elements)
        return images
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise bad_request(f"The values of {spec.name} do not form a tensor: rows differ in length.") from error
    if array.size != elements:
        raise _wrong_count(spec, array.size, elements)
    if array.dtype.kind not in "fiu":
        raise bad_request(f"The values of {spec.name} are not all numbers.")
    with np.errstate(over="ignore"):  # what is too large for the network is found in its answer
        return array.astype(np.float32, copy=False).reshape(tuple(shape))


def read_parameter(parameters: Mapping[str, Any] | None, name: str, kind: type, default: Any) -> Any:
    """Return a parameter of a request, an input or an output; null is as good as none.

    Raises:
        RequestError: it is of another kind.
    """
    value = (parameters or {}).get(name)
    if value is None:
        return default
    if type(value) not in (kind, type(default)):
        raise bad_request(f"The parameter {name} must be of type {kind.__name__}, not {type(value).__name__}.")
    return value


def _split_bytes(spec: InputSpec, elements: int, data: bytes | memoryview) -> list[bytes]:
    """Each element is its length in four bytes, little-endian, and then itself."""
    parts: list[bytes] = []
    position = 0
    while position < len(data) and len(parts) < elements:
        length = int.from_bytes(data[position : position + 4], "little")
        position += 4
        if position + length > len(data):
            raise bad_request(f"{spec.name} breaks off within element {len(parts)}; send it whole.")
        parts.append(bytes(data[position : position + length]))
        position += length
    if len(parts) != elements or position != len(data):
        raise bad_request(f"{spec.name} does not hold the {elements} elements that its shape says.")
    return parts


def _wrong_count(spec: InputSpec, found: int, elements: int) -> RequestError:
    return bad_request(f"{spec.name} has {found} values, but its shape needs {elements}.")

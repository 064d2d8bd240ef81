"""Reads safetensors files as data: every number in the header is checked before any array is created.

A file is the length of the header (8 bytes), the header (JSON), and the tensors' bytes one after the other; see
https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""The dtype of an array of bfloat16 numbers, which numpy lacks: the upper halves of float32 numbers."""
MAX_HEADER_BYTES = 2**20
"""The header of 600 tensors has 60 KB; parsed, JSON takes up to twenty times its size."""
_MAX_DIMENSIONS = 8
_MAX_SHOWN = 80
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}


def looks_like_safetensors(head: bytes) -> bool:
    """Whether a file starts like one: a plausible length, then a JSON object."""
    start = head[_LENGTH_BYTES : _LENGTH_BYTES + 2]
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    return length <= MAX_HEADER_BYTES and start[:1] == b"{" and start[1:] in (b'"', b"}", b" ", b"\n")


def load_safetensors(data: bytes) -> dict[str, NDArray[Any]]:
    """Return a file's tensors by name, as read-only views of ``data``.

    BF16 tensors have the dtype ``BFLOAT16`` (see ``bfloat16.to_float32``), all others the matching numpy dtype.
    Metadata is checked and dropped.

    Raises:
        WeightsError: the file is damaged, or has tensors other than floats and integers.
    """
    try:
        return parse_safetensors(data)[0]
    except ValueError as error:
        raise WeightsError(f"it is not a readable safetensors file: {error}. Download it again.") from error


def parse_safetensors(data: bytes | mmap) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return a file's tensors as ``load_safetensors`` does, and its metadata.

    Raises:
        ValueError: the file is damaged, or has tensors other than floats and integers; the message says why.
    """
    try:
        header, metadata = _header(data)
        return _tensors(data, header), metadata
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    except ValueError as error:
        raise ValueError(ascii(str(error)[:200])[1:-1]) from error


def dump_safetensors(arrays: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return float32 tensors as a file, as PyTorch's tools write it."""
    shapes = {name: ("F32", array.shape) for name, array in arrays.items()}
    tensors = (np.ascontiguousarray(array, "<f4").tobytes() for array in arrays.values())
    return b"".join((safetensors_head(shapes, {"format": "pt"}), *tensors))


def safetensors_head(
    tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str], size: int = 0
) -> bytes:
    """Return what stands before the tensors in a file.

    Args:
        tensors: name -> dtype, as the format names it, and shape; in the order in which they follow.
        metadata: texts.
        size: bytes that it fills, if it needs fewer.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    position = 0
    for name, (dtype, shape) in tensors.items():
        end = position + math.prod(shape) * _DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(size - _LENGTH_BYTES)
    text += b" " * (-len(text) % _LENGTH_BYTES)  # tensors are aligned
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _header(data: bytes | mmap) -> tuple[dict[str, Any], dict[str, str]]:
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or length > len(data) - _LENGTH_BYTES:
        raise ValueError(f"its header should have {length} bytes, the file has {len(data)}")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {length} bytes, more than the {MAX_HEADER_BYTES} that are read")
    end = _LENGTH_BYTES + length
    if data[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{" or data[end - 1 : end] not in (b"}", b" "):  # padded with spaces
        raise ValueError("its header is no JSON object")
    header: dict[str, Any] = json.loads(str(memoryview(data)[_LENGTH_BYTES:end], "utf-8"), object_pairs_hook=_unique)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{_METADATA} holds more than texts")
    return header, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name stands twice in its header")
    return content


def _tensors(data: bytes | mmap, header: dict[str, Any]) -> dict[str, NDArray[Any]]:
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    places = {name: _place(name, entry) for name, entry in header.items()}
    position = 0  # tensors are contiguous: no gaps, no overlaps
    for name, (begin, end, *_) in sorted(places.items(), key=lambda item: item[1][:2]):
        if begin != position:
            raise ValueError(f"{_shown(name)} begins at byte {begin} instead of {position}")
        position = end
    if position != len(data) - start:
        raise ValueError(f"its tensors have {position} bytes, the file has {len(data) - start} for them")
    return {
        name: np.frombuffer(data, dtype, math.prod(shape), start + begin).reshape(shape)
        for name, (begin, _, dtype, shape) in places.items()
    }


def _place(name: str, entry: Any) -> tuple[int, int, np.dtype[Any], tuple[int, ...]]:
    """Return a tensor's begin and end offset, dtype and shape, checked against each other."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{_shown(name)} needs dtype, shape and data_offsets")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise ValueError(f"{_shown(name)} has dtype {_shown(entry['dtype'])}; {', '.join(_DTYPES)} are read")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(shape) > _MAX_DIMENSIONS or len(offsets) != 2:
        raise ValueError(f"{_shown(name)} has an impossible shape or impossible offsets")
    begin, end = offsets
    needed = math.prod(shape) * dtype.itemsize
    if needed != end - begin:
        raise ValueError(
            f"{_shown(name)} of shape {tuple(shape)} and dtype {entry['dtype']} needs {needed} bytes, "
            f"its offsets hold {end - begin}"
        )
    return begin, end, dtype, tuple(shape)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else type(value).__name__
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def to_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Convert floats of any width, or ``BFLOAT16``, to float32 (C order, aligned); narrower types convert exactly."""
    if array.dtype == BFLOAT16:
        array = np.asarray(array.view("<u2").astype("<u4") << 16).view("<f4")
    return np.require(array, np.float32, ["C", "A"])

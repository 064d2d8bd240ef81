"""Tensors are as many values as their shape says, or one clear refusal; nothing is taken that was not announced."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest

from ghostzoo.serve.compression import decompressed
from ghostzoo.serve.open_inference.tensors import (
    InputSpec,
    OutputTensor,
    count_elements,
    from_bytes,
    from_values,
    read_parameter,
)
from ghostzoo.serve.request_errors import RequestError

IMAGES = InputSpec("images", "BYTES", (-1,))
PIXELS = InputSpec("pixel_values", "FP32", (-1, 3, 2, 2))
MIB = 2**20


def element(content: bytes) -> bytes:
    return len(content).to_bytes(4, "little") + content


def refused(call: Any, *arguments: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    return caught.value


def test_bytes_come_back_one_by_one() -> None:
    parts = [b"first", b"", b"third"]
    assert from_bytes(IMAGES, [3], 3, b"".join(map(element, parts))) == parts
    assert from_bytes(IMAGES, [3], 3, memoryview(b"".join(map(element, parts)))) == parts
    text = OutputTensor("logits", np.array(["0.5:1:cat", "é"], object))
    assert (text.datatype, text.to_bytes()) == ("BYTES", element(b"0.5:1:cat") + element("é".encode()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (element(b"first") + element(b"second") + b"x", "does not hold the 2 elements"),
        (element(b"first") + element(b"second") + element(b"third"), "does not hold the 2 elements"),
        (element(b"first"), "does not hold the 2 elements"),
        (b"", "does not hold the 2 elements"),
        (element(b"first") + element(b"second")[:-1], "breaks off within element 1"),
        (element(b"first") + b"\1\0", "breaks off within element 1"),
        (element(b"first") + (2**32 - 1).to_bytes(4, "little") + b"x", "breaks off within element 1"),
    ],
    ids=["trailing byte", "one too many", "one too few", "none", "cut", "cut length", "lying length"],
)
def test_bytes_that_are_not_as_announced(data: bytes, message: str) -> None:
    error = refused(from_bytes, IMAGES, [2], 2, data)
    assert error.status == 400
    assert message in str(error)


@pytest.mark.parametrize("difference", [-4, -1, 1, 4])
def test_float_tensors_have_four_bytes_a_value(difference: int) -> None:
    data = np.arange(24, dtype="<f4").tobytes()
    np.testing.assert_array_equal(
        from_bytes(PIXELS, [2, 3, 2, 2], 24, data), np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    )
    wrong = data[:difference] if difference < 0 else data + bytes(difference)
    assert f"{len(wrong)} bytes, but its shape [2, 3, 2, 2] needs 96" in str(
        refused(from_bytes, PIXELS, [2, 3, 2, 2], 24, wrong)
    )


@pytest.mark.parametrize(
    ("datatype", "shape", "status"),
    [
        ("FP64", [1, 3, 2, 2], 400),
        ("FP32", [1, 3, 2], 400),
        ("FP32", [1, 3, 2, 2, 1], 400),
        ("FP32", [1, 4, 2, 2], 400),
        ("FP32", [0, 3, 2, 2], 400),
        ("FP32", [-1, 3, 2, 2], 400),
        ("FP32", [9, 3, 2, 2], 413),
    ],
)
def test_shapes_are_those_of_the_model(datatype: str, shape: list[int], status: int) -> None:
    assert refused(count_elements, PIXELS, datatype, shape, 8).status == status
    assert count_elements(PIXELS, "FP32", [8, 3, 2, 2], 8) == 96
    assert count_elements(PIXELS, "FP32", [1, 3, 2, 2], 8) == 12


def test_values_are_counted_and_are_numbers() -> None:
    nested = np.arange(12).reshape(1, 3, 2, 2).tolist()
    np.testing.assert_array_equal(
        from_values(PIXELS, [1, 3, 2, 2], 12, nested), np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    )
    for values in (list(range(11)), list(range(13)), [[1, 2], [3]], ["x"] * 12, [True] * 12):
        assert refused(from_values, PIXELS, [1, 3, 2, 2], 12, values).status == 400
    assert from_values(IMAGES, [2], 2, [b"a", b"b"]) == [b"a", b"b"]
    assert "has 3 values, but its shape needs 2" in str(refused(from_values, IMAGES, [2], 2, [b"a"] * 3))


def test_parameters_have_their_kind() -> None:
    assert read_parameter({"binary": True}, "binary", bool, False) is True
    assert read_parameter({}, "classification", int, 0) == 0
    assert read_parameter({"classification": None}, "classification", int, 0) == 0  # as if it were not there
    for value in (1, "yes"):
        assert "must be of type bool" in str(refused(read_parameter, {"binary": value}, "binary", bool, False))
    assert "must be of type int, not bool" in str(refused(read_parameter, {"n": True}, "n", int, 0))


@pytest.mark.parametrize("bits", [zlib.MAX_WBITS, zlib.MAX_WBITS | 16], ids=["deflate", "gzip"])
def test_decompression_ends_at_the_limit_of_memory(bits: int) -> None:
    compressor = zlib.compressobj(9, wbits=bits)
    bomb = b"".join(compressor.compress(bytes(MIB)) for _ in range(256)) + compressor.flush()
    tracemalloc.start()
    try:
        error = refused(decompressed, bomb, 4 * MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.status == 413
    assert peak < 12 * MIB


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3 * MIB, 4 * MIB])
def test_what_fits_is_decompressed_whole(size: int) -> None:
    plain = np.random.default_rng(0).integers(0, 4, size, np.uint8).tobytes()
    data = zlib.compress(plain)
    assert decompressed(data, 4 * MIB) == plain
    for wrong in (data[:-1], data + b"x", data * 2, data + bytes(MIB)):
        assert refused(decompressed, wrong, 4 * MIB).status == 400
    if size:
        assert refused(decompressed, data, size - 1).status == 413

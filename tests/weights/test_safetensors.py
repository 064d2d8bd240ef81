"""Safetensors: what is right is read exactly; what lies is one sentence, and costs no more memory than the file."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ghostzoo.errors import WeightsError
from ghostzoo.network.architecture import Architecture
from ghostzoo.weights.params import read_weights
from ghostzoo.weights.safetensors import BFLOAT16, MAX_HEADER_BYTES, load_safetensors
from tests.fixtures.checkpoints import safetensors, with_header
from tests.fixtures.limited import run_limited
from tests.fixtures.networks import random_arrays

MUTANTS = 500


def test_every_dtype_is_read_exactly() -> None:
    rng = np.random.default_rng(0)
    kinds = ["f8", "f4", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
    arrays = {kind: (rng.normal(size=(3, 4)) * 50).astype(f"<{kind}") for kind in kinds}
    arrays |= {"scalar": np.array(7.5, "<f4"), "empty": np.zeros((0, 3), "<f4"), "名": np.ones(3, "<f4")}
    read = load_safetensors(safetensors(arrays, metadata={"format": "np", "note": "ü"}))
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
        assert not read[name].flags.writeable
    bits = load_safetensors(safetensors({"w": np.array([1, 2], "<u2")}, {"w": "BF16"}))["w"]
    assert bits.dtype == BFLOAT16
    assert bits["bfloat16"].tolist() == [1, 2]


def test_tensors_are_views_of_the_file() -> None:
    data = safetensors({"w": np.ones(2_000_000, "<f4")})
    tracemalloc.start()
    try:
        read = load_safetensors(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert np.shares_memory(read["w"], np.frombuffer(data, np.uint8))


def test_a_file_without_tensors_is_read() -> None:
    assert load_safetensors(with_header(b"{}")) == {}
    assert load_safetensors(with_header(b'{"__metadata__":{}}')) == {}


def test_tensors_may_stand_in_any_order() -> None:
    header = {
        "second": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]},
        "first": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "nothing": {"dtype": "F64", "shape": [0, 2**40], "data_offsets": [1, 1]},
    }
    read = load_safetensors(with_header(json.dumps(header).encode(), b"\1\2\3"))
    assert {name: array.tolist() for name, array in read.items()} == {"second": [2, 3], "first": [1], "nothing": []}


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> bytes:
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}).encode()


LIES = {
    "no bytes at all": (b"", "the file has 0"),
    "no header": (b"\1\0\0", "the file has 3"),
    "a header beyond the file": (struct.pack("<Q", 2**63) + b"{}", "should have 9223372036854775808 bytes"),
    "a header of half the address space": (struct.pack("<Q", 2**64 - 1) + b'{"', "the file has 10"),
    "a large header": (with_header(b"{" + b" " * MAX_HEADER_BYTES + b"}"), "more than the 1048576 that are read"),
    "no JSON": (with_header(b"{w}"), "Expecting property name"),
    "no object": (with_header(b"[1]"), "no JSON object"),
    "spaces first": (with_header(b" {}"), "no JSON object"),
    "not UTF-8": (with_header(b'{"\xff":1}'), "invalid start byte"),
    "deep nesting": (with_header(b'{"w":' + b"[" * 200_000 + b"}"), "nested too deeply"),
    "many digits": (with_header(b'{"w":' + b"9" * 10_000 + b"}"), "digits"),
    "a name twice": (with_header(entry()[:-1] + b"," + entry()[1:], bytes(8)), "stands twice"),
    "a dtype twice": (with_header(entry().replace(b'"shape"', b'"dtype"'), bytes(8)), "stands twice"),
    "metadata of numbers": (with_header(b'{"__metadata__":{"a":1}}'), "more than texts"),
    "metadata that is a list": (with_header(b'{"__metadata__":[]}'), "more than texts"),
    "a tensor that is none": (with_header(b'{"w":5}'), "w needs dtype, shape and data_offsets"),
    "a tensor without shape": (with_header(b'{"w":{"dtype":"F32","data_offsets":[0,0]}}'), "needs dtype, shape"),
    "one field more": (with_header(entry(stride=[1]), bytes(8)), "needs dtype, shape"),
    "an unknown dtype": (with_header(entry("F8_E4M3"), bytes(8)), "w has dtype F8_E4M3; F64, F32, F16, BF16"),
    "objects": (with_header(entry("O"), bytes(8)), "w has dtype O"),
    "a dtype that is none": (with_header(entry(["F32"]), bytes(8)), "w has dtype list"),
    "a side below zero": (with_header(entry(shape=[-2]), bytes(8)), "impossible shape"),
    "a side that is no integer": (with_header(entry(shape=[2.0]), bytes(8)), "impossible shape"),
    "a side that is true": (with_header(entry(shape=[True, 2]), bytes(8)), "impossible shape"),
    "a side beyond 64 bits": (with_header(entry(shape=[2**64 + 2]), bytes(8)), "impossible shape"),
    "sides whose product wraps": (with_header(entry(shape=[2**62, 4, 2]), bytes(8)), "its offsets hold 8"),
    "many sides": (with_header(entry(shape=[1] * 40), bytes(8)), "impossible shape"),
    "a shape that is none": (with_header(entry(shape="2"), bytes(8)), "impossible shape"),
    "offsets below zero": (with_header(entry(offsets=[-8, 0]), bytes(8)), "impossible offsets"),
    "offsets turned round": (with_header(entry(offsets=[8, 0]), bytes(8)), "its offsets hold -8"),
    "three offsets": (with_header(entry(offsets=[0, 4, 8]), bytes(8)), "impossible offsets"),
    "offsets beyond it": (with_header(entry(offsets=[2**40, 2**40 + 8]), bytes(8)), "begins at byte 1099511627776"),
    "more bytes than the file has": (with_header(entry(shape=[2**38], offsets=[0, 2**40]), bytes(8)), "the file has 8"),
    "bytes of no tensor": (with_header(entry(), bytes(9)), "have 8 bytes, the file has 9"),
    "a gap": (with_header(entry(offsets=[1, 9]), bytes(9)), "w begins at byte 1 instead of 0"),
    "an overlap": (
        with_header(entry()[:-1] + b"," + entry(offsets=[4, 12]).replace(b'"w"', b'"v"')[1:], bytes(12)),
        "v begins at byte 4 instead of 8",
    ),
    "one place for two": (with_header(entry()[:-1] + b"," + entry().replace(b'"w"', b'"v"')[1:], bytes(8)), "begins"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_what_lies_is_one_cheap_sentence(name: str, tmp_path: Path) -> None:
    data, reason = LIES[name]
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError) as error:
            load_safetensors(data)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data) + 2**18
    finally:
        tracemalloc.stop()
    assert reason in str(error.value)
    assert len(str(error.value)) < 500
    path = tmp_path / "model.safetensors"
    path.write_bytes(data or b"\0")
    with pytest.raises(
        WeightsError, match=r"model\.safetensors: it is not a readable safetensors file: .* Download it"
    ):
        read_weights(path)


def test_names_cannot_flood_or_steer_a_terminal() -> None:
    for name in ("a" * 500_000, "\x1b[31mred", "two\nlines", "\ud800"):
        with pytest.raises(WeightsError) as error:
            load_safetensors(with_header(json.dumps({name: 5}).encode()))
        assert len(str(error.value)) < 500
        assert str(error.value).isprintable()


def mutant(original: bytes, number: int) -> bytes:
    """Change the file of this number, always in the same way: mostly its header, where all that is believed stands."""
    chance = random.Random(number)  # noqa: S311
    data = bytearray(original)
    end = 8 + int.from_bytes(data[:8], "little")
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(chance.choice((8, 200, end)))
        kind = chance.randrange(7)
        if kind == 0:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[place] = chance.choice(b'0123456789{}[]",:- \0\xff')
        elif kind == 2:
            data[:8] = struct.pack("<Q", chance.choice((0, 1, end, end - 7, 2**20, 2**31, 2**40, 2**63, 2**64 - 1)))
        elif kind == 3:
            del data[place : place + chance.choice((1, 4, 100))]
        elif kind == 4:
            data[place:place] = data[place : place + chance.choice((1, 8, 100))] * chance.choice((1, 3))
        elif kind == 5:
            digits = [at for at in range(8, end) if data[at : at + 1].isdigit()]
            at = chance.choice(digits)
            data[at : at + 1] = str(chance.choice((0, 9, 2**31, 2**62, 2**64, 10**30))).encode()
        else:
            del data[chance.randrange(len(data)) :]
    return bytes(data)


MUTATED = """
import sys, tracemalloc
from pathlib import Path
from ghostzoo.errors import WeightsError
from ghostzoo.weights.params import read_weights
from tests.weights.test_safetensors import MUTANTS, mutant
original = Path(sys.argv[1]).read_bytes()
read = 0
events = []
for number in range(MUTANTS):
    path = Path(sys.argv[2])
    data = mutant(original, number)
    path.write_bytes(data)
    if number == 1:  # what is imported while the first is read is none of the file's doing
        sys.addaudithook(lambda event, _: event in ("exec", "compile", "import", "os.system", "subprocess.Popen",
                                                    "pickle.find_class") and events.append((number, event)))
    tracemalloc.start()
    try:
        read_weights(path)
        read += 1
    except WeightsError as error:
        assert len(str(error)) < 2000 and str(error).isprintable() and str(path) in str(error), error
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The mutant itself is held once; what is made of it, its parsed header above all, is less than the honest file.
    assert peak - len(data) < len(original), (number, peak, len(data))
assert not events, events
print(read)
"""


@pytest.mark.slow
def test_mutated_files_are_weights_or_one_clear_error(tmp_path: Path) -> None:
    original = tmp_path / "original.safetensors"
    original.write_bytes(safetensors(random_arrays(Architecture.of(0.1, 3)), metadata={"format": "pd"}))
    ended = run_limited(MUTATED, original, tmp_path / "mutant.safetensors", memory_mb=1024, seconds=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert int(ended.stdout) < MUTANTS // 10

"""What hostile programs and weights of Paddle can cost, in a child process with limits."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from exporters.paddle_program import read_program
from ghostzoo.errors import WeightsError
from ghostzoo.weights.programs import MAX_PROGRAM_BYTES, check_params
from tests.fixtures.limited import run_limited

pytestmark = pytest.mark.slow

READ = """
import sys
from pathlib import Path
from exporters.paddle_program import read_program
from ghostzoo.errors import WeightsError
from ghostzoo.weights.programs import check_params

data, suffix = Path(sys.argv[1]).read_bytes(), sys.argv[2]
try:
    check_params(data) if suffix == ".pdiparams" else read_program(data, suffix)
except WeightsError as error:
    print(error)
"""


def field(number: int, data: bytes) -> bytes:
    """A field of a protobuf message."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def varint(value: int) -> bytes:
    low = value & 127
    return bytes([low | 128]) + varint(value >> 7) if value > 127 else bytes([low])


def params(dims: list[int]) -> bytes:
    description = b"\x08\x05" + b"".join(b"\x10" + varint(side) for side in dims)  # float32, and its sides
    return struct.pack("<IQIi", 0, 0, 0, len(description)) + description


def new_program(operators: list[Any]) -> bytes:
    return json.dumps({"program": {"regions": [{"blocks": [{"ops": operators}]}]}}).encode()


BLOCK = b"\x08\x00\x10\x00"  # its number and its parent's
SCALE = {"#": "1.scale", "I": [{"%": 1}, {"%": 2}], "O": [{"%": 1}], "A": [{"N": "bias", "AT": {"D": 0.0}}]}
ONE = {"#": "1.full", "I": [], "O": [{"%": 2}], "A": [{"N": "value", "AT": {"D": 1.0}}]}
FETCH = {"#": "1.fetch", "I": [{"%": 1}], "O": [{"%": 3}], "A": []}


@pytest.mark.parametrize(
    ("data", "suffix", "reason"),
    [
        pytest.param(params([2**40] * 200_000), ".pdiparams", "no tensor starts", id="a tensor of many dimensions"),
        pytest.param(params([1] * 9) + bytes(4), ".pdiparams", "9 dimensions", id="a tensor of nine dimensions"),
        pytest.param(params([0]) * 3_000_000, ".pdiparams", "more than 10000 tensors", id="empty tensors"),
        pytest.param(field(1, b"") * 8_000_000, ".pdmodel", "more than the", id="empty blocks, over the limit"),
        pytest.param(field(1, BLOCK) * 600_000, ".pdmodel", "600000 blocks", id="blocks"),
        pytest.param(
            field(1, BLOCK + field(4, b"\x1a\x04relu") * 400_000), ".pdmodel", "400000 operators", id="operators"
        ),
        pytest.param(new_program([SCALE, ONE, FETCH]), ".json", "scales its output by 1", id="a circle"),
        pytest.param(b"[" + b'{"":0},' * 500_000 + b"0]", ".json", "damaged", id="JSON of many dicts"),
    ],
)
def test_a_hostile_file_is_refused_for_little(data: bytes, suffix: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / f"inference{suffix}"
    path.write_bytes(data)
    ended = run_limited(READ, path, suffix, memory_mb=8192, seconds=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("\n") == 1
    assert reason in ended.stdout
    assert ended.peak_mb < 1024  # Paddle itself takes 300


def test_what_fills_the_limits_is_read() -> None:
    check_params(params([2, 1, 3]) + bytes(24))
    with pytest.raises(WeightsError, match="damaged"):
        check_params(params([2, 1, 3]) + bytes(23))
    with pytest.raises(WeightsError, match="blocks instead of one"):
        read_program(field(1, BLOCK) * (MAX_PROGRAM_BYTES // 6), ".pdmodel")

"""Programs are data: whatever does more than compute a GhostNet is refused before Paddle sees it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from exporters.paddle_program import MAX_PROGRAM_BYTES, read_program
from ghostzoo.errors import WeightsError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def program(archive: Path) -> tuple[bytes, str]:
    """The program of an archive and its suffix."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            path = Path(member.name)
            file = tar.extractfile(member)
            if path.suffix in (".json", ".pdmodel") and file is not None:
                return file.read(), path.suffix
    raise LookupError(archive)


def parse_old(data: bytes) -> Any:
    from paddle.base.proto import framework_pb2

    return framework_pb2.ProgramDesc.FromString(data)


def rename_an_operator(data: bytes, suffix: str, name: str) -> bytes:
    """Turn the first ReLU into the operator ``name``."""
    if suffix == ".json":
        content = json.loads(data)
        operators = content["program"]["regions"][0]["blocks"][0]["ops"]
        next(operator for operator in operators if operator["#"].endswith(".relu"))["#"] = f"1.{name}"
        return json.dumps(content).encode()
    desc = parse_old(data)
    next(operator for operator in desc.blocks[0].ops if operator.type == "relu").type = name
    return bytes(desc.SerializeToString())


@pytest.mark.parametrize("operator", ["py_func", "load", "save_combine", "print", "run_program", "while"])
def test_an_operator_that_does_more_than_compute_is_refused(program: tuple[bytes, str], operator: str) -> None:
    data, suffix = program
    read_program(data, suffix)
    with pytest.raises(WeightsError, match=f"not run: '{operator}'"):
        read_program(rename_an_operator(data, suffix, operator), suffix)


def test_only_the_softmax_is_cut_off(program: tuple[bytes, str]) -> None:
    data, suffix = program
    checked = read_program(data, suffix)
    assert checked.activation == "softmax"
    again = read_program(checked.cut, suffix)
    assert again.activation is None
    assert again.whole == checked.cut


@pytest.mark.parametrize("cut", [0, 1, 100, -10])
def test_a_truncated_program_is_refused(program: tuple[bytes, str], cut: int) -> None:
    data, suffix = program
    with pytest.raises(WeightsError, match="its program"):
        read_program(data[:cut], suffix)


def test_an_oversized_program_is_refused(program: tuple[bytes, str]) -> None:
    with pytest.raises(WeightsError, match="more than"):
        read_program(b" " * (MAX_PROGRAM_BYTES + 1), program[1])


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"[]", b"null", b'{"program": {"regions": []}}', b'{"program": 7}']
)
def test_strange_json_is_refused(content: bytes) -> None:
    with pytest.raises(WeightsError, match="its program"):
        read_program(content, ".json")

"""Which programs of Paddle 3 may be run: those that only compute, read and handed on as one and the same thing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ghostzoo.errors import WeightsError
from ghostzoo.weights.programs import (
    MAX_OPERATORS,
    MAX_PROGRAM_BYTES,
    check_count,
    check_json_program,
    check_operators,
    json_operators,
    shorten,
)

OPERATORS = [{"#": "p"}, {"#": "1.data"}, {"#": "1.conv2d"}, {"#": "1.batch_norm_"}, {"#": "1.fetch"}]


def program(operators: list[dict[str, Any]] = OPERATORS) -> dict[str, Any]:
    return {"base_code": {"version": 3}, "program": {"regions": [{"blocks": [{"ops": operators}]}]}}


def test_a_program_that_computes_is_handed_on_as_it_was_read() -> None:
    data = json.dumps(program()).encode()
    checked = check_json_program(data)
    assert json.loads(checked) == program()
    assert json_operators(program()) == OPERATORS
    twice = data.replace(b'"base_code"', b'"base_code": 1, "base_code"')  # two readers could take either
    assert json.loads(check_json_program(twice)) == program()
    assert check_json_program(twice).count(b"base_code") == 1


@pytest.mark.parametrize("name", ["1.py_func", "1.load_combine", "print", "py_func", "1.", "é"])
def test_other_operators_are_named_and_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="operators that a GhostNet does not need and that are not run") as error:
        check_json_program(json.dumps(program([*OPERATORS, {"#": name}])).encode())
    assert ascii((name.partition(".")[2] or name)[:60]) in str(error.value)
    assert str(error.value).isascii()


def test_at_most_five_names_are_shown() -> None:
    with pytest.raises(WeightsError) as error:
        check_operators([*(f"bad{index}" for index in range(9)), "x" * 1000])
    assert "'bad4'" in str(error.value)
    assert "bad5" not in str(error.value)


def test_control_flow_is_refused() -> None:
    branch = {"#": "1.conv2d", "regions": [{"blocks": [{"ops": []}]}]}
    with pytest.raises(WeightsError, match="branches or loops"):
        check_json_program(json.dumps(program([branch])).encode())


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"program": {"regions": []}},
        {"program": {"regions": [{"blocks": []}]}},
        {"program": {"regions": [{"blocks": [{"ops": []}, {"ops": []}]}]}},
        {"program": {"regions": [{"blocks": [{"ops": [{}]}]}]}},
        {"program": {"regions": [{"blocks": [{"ops": [{"#": 3}]}]}]}},
    ],
)
def test_a_damaged_program_is_one_error(content: Any) -> None:
    for data in (json.dumps(content).encode(), b"[" * 100_000, b"\xff", b""):
        with pytest.raises(WeightsError, match=r"^its program is damaged \(\w+"):
            check_json_program(data)


def test_sizes_are_bounded() -> None:
    check_count(MAX_OPERATORS)
    with pytest.raises(WeightsError, match=f"{MAX_OPERATORS + 1} operators, more than the {MAX_OPERATORS}"):
        check_count(MAX_OPERATORS + 1)
    with pytest.raises(WeightsError, match="10001 operators"):
        check_json_program(json.dumps(program([{"#": "p"}] * 10_001)).encode())
    padded = json.dumps(program()).encode().ljust(MAX_PROGRAM_BYTES)
    check_json_program(padded)
    with pytest.raises(WeightsError, match=f"{MAX_PROGRAM_BYTES + 1} bytes, more than"):
        check_json_program(padded + b" ")


def test_errors_are_one_short_line_of_ascii() -> None:
    assert shorten(ValueError("a\nb é" + "x" * 999)) == r"ValueError: a\nb \xe9" + "x" * 195

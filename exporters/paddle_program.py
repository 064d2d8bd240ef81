"""Paddle's inference programs, checked before Paddle runs them, and truncated before the softmax or the sigmoid.

Official programs end in a softmax, whose float32 output has lost the small logits, and those of multi-label models in a
sigmoid. The reference is the tensor before it: the *cut* program returns that tensor instead. What Paddle runs, whole
or cut, is serialised from what was checked, so that Paddle cannot read something else in the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ghostzoo.errors import WeightsError
from ghostzoo.weights.programs import MAX_PROGRAM_BYTES, check_count, check_operators, json_operators, shorten

ACTIVATIONS = ("softmax", "sigmoid")
_MAX_IDENTITIES = 16


@dataclass(frozen=True)
class Program:
    """A checked program."""

    suffix: str
    """``.pdmodel`` (Paddle 2) or ``.json`` (Paddle 3); Paddle infers the format from it."""
    whole: bytes
    cut: bytes
    """The program without its activation; the same as ``whole`` if there is none."""
    activation: str | None
    """What it ends in: one of ``ACTIVATIONS``."""


def read_program(data: bytes, suffix: str) -> Program:
    """Check a program and cut off its softmax or sigmoid.

    Args:
        data: content of the file.
        suffix: ``.pdmodel`` or ``.json``.

    Raises:
        WeightsError: the program is damaged, has operators that a GhostNet does not need, or not exactly one output.
    """
    if len(data) > MAX_PROGRAM_BYTES:
        raise WeightsError(f"its program has {len(data)} bytes, more than the {MAX_PROGRAM_BYTES} that are read.")
    try:
        return _read_old(data) if suffix == ".pdmodel" else _read_new(data)
    except WeightsError:
        raise
    except Exception as error:  # json and protobuf raise errors of many kinds, and a damaged program more
        raise WeightsError(f"its program is damaged ({shorten(error)}); get the archive again.") from error


def _only(items: Sequence[Any], what: str) -> Any:
    if len(items) != 1:
        raise WeightsError(f"its program has {len(items)} {what} instead of one; is it a classifier?")
    return items[0]


def _behind_identities(producer: Any, is_identity: Callable[[Any], bool], before: Callable[[Any], Any]) -> Any:
    """Go back past scales by 1, which Paddle appends to an output."""
    for _ in range(_MAX_IDENTITIES):
        if producer is None or not is_identity(producer):
            return producer
        producer = before(producer)
    raise WeightsError(f"its program scales its output by 1 more than {_MAX_IDENTITIES} times; is it a classifier?")


def _read_old(data: bytes) -> Program:
    """Paddle 2: a protobuf ``ProgramDesc``, whose operators refer to variables by name."""
    from paddle.base.proto import framework_pb2

    program = framework_pb2.ProgramDesc.FromString(data)
    block = _only(program.blocks, "blocks")
    check_count(len(block.ops))
    program.DiscardUnknownFields()
    check_operators(operator.type for operator in block.ops)
    whole = program.SerializeToString(deterministic=True)
    fetch = _only([operator for operator in block.ops if operator.type == "fetch"], "outputs")
    producers = {name: operator for operator in block.ops for out in operator.outputs for name in out.arguments}
    producer = _behind_identities(
        producers.get(_old_input(fetch)),
        lambda operator: operator.type == "scale" and _is_old_identity(operator),
        lambda operator: producers.get(_old_input(operator)),
    )
    activation = producer.type if producer is not None and producer.type in ACTIVATIONS else None
    if activation is not None:
        for name in fetch.inputs:
            name.arguments[:] = [_old_input(producer)]
    return Program(".pdmodel", whole, program.SerializeToString(deterministic=True), activation)


def _old_input(operator: Any) -> str:
    name: str = _only([name for port in operator.inputs if port.parameter == "X" for name in port.arguments], "inputs")
    return name


def _is_old_identity(scale: Any) -> bool:
    tensors = [name for port in scale.inputs if port.parameter != "X" for name in port.arguments]
    values = {attribute.name: attribute.f for attribute in scale.attrs}
    return not tensors and values.get("scale", 1.0) == 1.0 and values.get("bias", 0.0) == 0.0


def _read_new(data: bytes) -> Program:
    """Paddle 3: JSON, whose operators refer to values by number."""
    content = json.loads(data)
    operators = json_operators(content)
    whole = json.dumps(content).encode()
    fetch = _only([operator for operator in operators if operator["#"].endswith(".fetch")], "outputs")
    producers = {value["%"]: operator for operator in operators for value in _new_values(operator, "O")}
    producer = _behind_identities(
        producers.get(_new_input(fetch)),
        lambda operator: operator["#"].endswith(".scale") and _is_new_identity(operator, producers),
        lambda operator: producers.get(_new_input(operator)),
    )
    kind = "" if producer is None else producer["#"].rpartition(".")[2]
    activation = kind if kind in ACTIVATIONS else None
    if activation is not None:
        fetch["I"][0]["%"] = _new_input(producer)
    return Program(".json", whole, json.dumps(content).encode(), activation)


def _new_values(operator: Any, port: str) -> list[Any]:
    values = operator[port]
    return values if isinstance(values, list) else [values]


def _new_input(operator: Any, position: int = 0) -> int:
    number: int = _new_values(operator, "I")[position]["%"]
    return number


def _new_attribute(operator: Any, name: str) -> Any:
    return next((attribute["AT"]["D"] for attribute in operator["A"] if attribute["N"] == name), None)


def _is_new_identity(scale: Any, producers: dict[int, Any]) -> bool:
    factor = producers.get(_new_input(scale, 1))
    is_one = factor is not None and factor["#"].endswith(".full") and _new_attribute(factor, "value") == 1.0
    return is_one and _new_attribute(scale, "bias") == 0.0

"""Read a pickle of numpy arrays and plain containers as data: nothing in it is imported, called or executed.

A pickle is a program for a small stack machine. This module is such a machine with only the instructions that plain
data needs; the few global names in a pickled numpy array are represented by inert tokens, and any other instruction or
name is an error. Python's own ``pickle`` is not used: even with a restricted ``find_class`` it allocates from unchecked
headers.

The cost of a hostile file is bounded as well: the number of instructions is limited, and all memory they use is charged
against a budget proportional to the file's size.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from sys import getsizeof
from typing import Any

from .pickle_calls import (
    ARRAY_BYTES,
    DamagedPickleError,
    DType,
    PendingArray,
    UnsafePickleError,
    admit,
    call,
    shown,
    text_key,
)

__all__ = ["MAX_INSTRUCTIONS", "DamagedPickleError", "UnsafePickleError", "load_pickle_data"]

MAX_INSTRUCTIONS = 1_000_000
"""A weight file of the catalog has some 20,000."""

_BUDGET_BYTES = 16 * 2**20
"""For objects, whatever the file's size; a catalog model's weights need 1 MB."""
_BUDGET_FACTOR = 2
"""Additional bytes per byte of the file: protocol 2 stores arrays as text, which has to be encoded."""
_SLOT_BYTES = 9
"""A stack slot: a pointer, plus the eighth by which lists overallocate."""


class _Mark:
    __slots__ = ()


_MARK = _Mark()


def load_pickle_data(data: bytes) -> Any:
    """Return the object in the pickle ``data``: dicts with string keys, lists, tuples, scalars and arrays.

    Arrays are read-only. Everything together takes at most twice the size of ``data`` plus 16 MiB.

    Raises:
        UnsafePickleError: an instruction or global name that plain data does not need, or too much work.
        DamagedPickleError: truncated or inconsistent data.
    """
    machine = _Machine(_BUDGET_BYTES + _BUDGET_FACTOR * len(data))
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if count == MAX_INSTRUCTIONS:
                raise UnsafePickleError(f"it has more than {MAX_INSTRUCTIONS} pickle instructions")
            instruction = _INSTRUCTIONS.get(opcode.name)
            if instruction is None:
                raise UnsafePickleError(
                    f"pickle instruction {opcode.name}{'' if argument is None else f' of {shown(argument)}'} "
                    f"at byte {position} is not needed for weights and is not admitted"
                )
            machine.spend(_SLOT_BYTES)
            instruction(machine, argument)
    except (UnsafePickleError, DamagedPickleError):
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedPickleError(f"the pickle is truncated or damaged ({shown(str(error))[1:-1]})") from error
    return machine.result


class _Machine:
    """Stack and memo of the pickle machine."""

    def __init__(self, budget: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None
        self.pending_arrays = 0
        self._budget = budget

    def spend(self, size: int) -> None:
        """Charge ``size`` bytes of memory. Freed memory is not credited: honest data creates each part once."""
        self._budget -= size
        if self._budget < 0:
            raise UnsafePickleError("it makes far more of its contents than the file holds")

    def push(self, value: Any) -> None:
        """Push a new object and charge it."""
        self.spend(getsizeof(value))
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise DamagedPickleError("the pickle is damaged (a mark is missing)")
        items = self.stack[position + 1 :]
        del self.stack[position:]
        return items


def _push(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.stack.append(value)


def _push_argument(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


def _push_new(factory: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.push(factory())


def _put(machine: _Machine, argument: Any) -> None:
    # Writers count from 0. Arbitrary numbers could all have the same hash, which makes lookups slow.
    if not 0 <= argument <= MAX_INSTRUCTIONS:
        raise DamagedPickleError("the pickle is damaged (a number in its memo is out of range)")
    before = getsizeof(machine.memo)
    value = machine.memo[argument] = machine.stack[-1]
    machine.spend(getsizeof(argument) + getsizeof(machine.memo) - before)
    if isinstance(value, PendingArray):
        value.places.append(argument)


def _memoize(machine: _Machine, argument: Any) -> None:
    _put(machine, len(machine.memo))


def _get(machine: _Machine, argument: Any) -> None:
    machine.stack.append(machine.memo[argument])


def _push_bytes(machine: _Machine, argument: Any) -> None:
    # pickletools gives strings of Python 2 as str; they are bytes.
    machine.push(argument.encode("latin-1") if isinstance(argument, str) else bytes(argument))


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def make(machine: _Machine, argument: Any) -> None:
        if len(machine.stack) < count:
            raise DamagedPickleError("the pickle is damaged (the stack is empty)")
        items = tuple(machine.stack[-count:])
        del machine.stack[-count:]
        machine.push(items)

    return make


def _tuple_from_mark(machine: _Machine, argument: Any) -> None:
    machine.push(tuple(machine.pop_to_mark()))


def _list_from_mark(machine: _Machine, argument: Any) -> None:
    machine.push(machine.pop_to_mark())


def _dict_from_mark(machine: _Machine, argument: Any) -> None:
    items = machine.pop_to_mark()
    machine.push({})
    _update(machine, items)


def _set_items(machine: _Machine, argument: Any) -> None:
    items = machine.pop_to_mark()
    _update(machine, items)


def _set_item(machine: _Machine, argument: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _update(machine, [key, value])


def _update(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, dict) or len(items) % 2:
        raise DamagedPickleError("the pickle is damaged (items for something that is not a dict)")
    before = getsizeof(target)
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[text_key(key, machine.spend)] = value
    machine.spend(getsizeof(target) - before)


def _append(machine: _Machine, argument: Any) -> None:
    value = machine.stack.pop()
    _extend(machine, [value])


def _appends(machine: _Machine, argument: Any) -> None:
    items = machine.pop_to_mark()
    _extend(machine, items)


def _extend(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, list):
        raise DamagedPickleError("the pickle is damaged (items for something that is not a list)")
    before = getsizeof(target)
    target.extend(items)
    machine.spend(getsizeof(target) - before)


def _global(machine: _Machine, argument: Any) -> None:
    module, _, name = argument.partition(" ")
    machine.push(admit(module, name))


def _stack_global(machine: _Machine, argument: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.push(admit(module, name))


def _reduce(machine: _Machine, argument: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    result = call(function, arguments, machine.spend)
    machine.pending_arrays += isinstance(result, PendingArray)
    machine.stack.append(result)


def _build(machine: _Machine, argument: Any) -> None:
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, DType):
        target.set_state(state)
    elif isinstance(target, PendingArray):
        machine.spend(ARRAY_BYTES)
        array = machine.stack[-1] = target.fill(state)
        machine.pending_arrays -= 1
        for place in target.places:
            if machine.memo[place] is target:
                machine.memo[place] = array
    else:
        raise UnsafePickleError(f"it sets the state of a {type(target).__name__}")


def _stop(machine: _Machine, argument: Any) -> None:
    if len(machine.stack) != 1 or machine.stack[0] is _MARK:
        raise DamagedPickleError("the pickle is damaged (it does not end with one object)")
    if machine.pending_arrays:
        raise DamagedPickleError("the pickle is damaged (an array has no contents)")
    machine.result = machine.stack.pop()


def _nothing(machine: _Machine, argument: Any) -> None:
    """PROTO and FRAME carry no data."""


_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "STOP": _stop,
    "MARK": _push(_MARK),
    "NONE": _push(None),
    "NEWTRUE": _push(True),
    "NEWFALSE": _push(False),
    "EMPTY_DICT": _push_new(dict),
    "EMPTY_LIST": _push_new(list),
    "EMPTY_TUPLE": _push(()),
    **dict.fromkeys(
        [
            *("INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
            *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        ],
        _push_argument,
    ),
    **dict.fromkeys(
        ["STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"],
        _push_bytes,
    ),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], _put),
    **dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], _get),
    "MEMOIZE": _memoize,
    "LIST": _list_from_mark,
    "DICT": _dict_from_mark,
    "TUPLE": _tuple_from_mark,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "APPEND": _append,
    "APPENDS": _appends,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
}

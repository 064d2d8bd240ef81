"""Read a pickle of numpy arrays and plain containers as data: nothing in it is imported, called or executed.

A pickle is a program for a small stack machine. This module runs that machine with the few instructions that plain data
needs, and represents the few global names that a numpy array needs by inert tokens; any other instruction or name is an
error. Python's own ``pickle`` is not used: even with a restricted ``find_class`` it allocates from unchecked headers.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class UnsafePickleError(ValueError):
    """The pickle asks for something that plain data does not need; the message names it."""


class DamagedPickleError(ValueError):
    """The pickle is truncated, or its parts do not fit together."""


_DTYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})


class _Global:
    """Stands for an admitted global name; it can only be compared."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _DType:
    """A dtype being rebuilt: numpy pickles the kind in a call and the byte order in a later state."""

    __slots__ = ("order", "spec")

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.order = "<"

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.spec if self.spec[1:] != "1" else self.spec)


class _PendingArray:
    """An array whose shape and bytes have not come yet."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None


class _Mark:
    __slots__ = ()


_MARK = _Mark()

# (module, name) -> the role it plays; numpy 2 renamed numpy.core to numpy._core.
_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy.core.numeric", "_frombuffer"): "frombuffer",
    ("numpy._core.numeric", "_frombuffer"): "frombuffer",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("collections", "OrderedDict"): "dict",
    # Protocol 2 spells empty bytes as a call of bytes, and some Paddle versions save tuples through the builtin.
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "tuple"): "tuple",
    ("builtins", "tuple"): "tuple",
}


def load_pickle_data(data: bytes) -> Any:
    """Return the object that the pickle ``data`` describes: dicts with string keys, lists, tuples, scalars, arrays.

    Arrays are read-only views of ``data`` where the format allows. No memory is taken that ``data`` does not fill.

    Raises:
        UnsafePickleError: an instruction or global name outside plain data.
        DamagedPickleError: truncated or inconsistent data.
    """
    machine = _Machine()
    try:
        for opcode, argument, position in pickletools.genops(data):
            instruction = _INSTRUCTIONS.get(opcode.name)
            if instruction is None:
                raise UnsafePickleError(
                    f"pickle instruction {opcode.name} at byte {position} is not needed for weights and is not admitted"
                )
            instruction(machine, argument)
    except (UnsafePickleError, DamagedPickleError):
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedPickleError(f"the pickle is truncated or damaged ({error})") from error
    return _finish(machine.result)


class _Machine:
    """Stack and memo of the pickle machine."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

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
    machine.stack.append(argument)


def _push_new(factory: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.stack.append(factory())


def _put(machine: _Machine, argument: Any) -> None:
    machine.memo[argument] = machine.stack[-1]


def _memoize(machine: _Machine, argument: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(machine: _Machine, argument: Any) -> None:
    machine.stack.append(machine.memo[argument])


def _push_bytes(machine: _Machine, argument: Any) -> None:
    # Protocol 1 and 2 strings of Python 2 come as str; they are bytes by nature.
    machine.stack.append(argument.encode("latin-1") if isinstance(argument, str) else bytes(argument))


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def make(machine: _Machine, argument: Any) -> None:
        if len(machine.stack) < count:
            raise DamagedPickleError("the pickle is damaged (the stack is empty)")
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return make


def _tuple_from_mark(machine: _Machine, argument: Any) -> None:
    machine.stack.append(tuple(machine.pop_to_mark()))


def _set_items(machine: _Machine, argument: Any) -> None:
    items = machine.pop_to_mark()
    _update(machine.stack[-1], items)


def _set_item(machine: _Machine, argument: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _update(machine.stack[-1], [key, value])


def _update(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict) or len(items) % 2:
        raise DamagedPickleError("the pickle is damaged (items for something that is no dict)")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str):
            raise DamagedPickleError(f"a key of a dict is no string but {type(key).__name__}")
        target[key] = value


def _append(machine: _Machine, argument: Any) -> None:
    value = machine.stack.pop()
    _extend(machine.stack[-1], [value])


def _appends(machine: _Machine, argument: Any) -> None:
    items = machine.pop_to_mark()
    _extend(machine.stack[-1], items)


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise DamagedPickleError("the pickle is damaged (items for something that is no list)")
    target.extend(items)


def _global(machine: _Machine, argument: Any) -> None:
    module, _, name = argument.partition(" ")
    machine.stack.append(_admit(module, name))


def _stack_global(machine: _Machine, argument: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_admit(module, name))


def _admit(module: Any, name: Any) -> _Global:
    role = _GLOBALS.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
    if role is None:
        raise UnsafePickleError(f"it refers to {module}.{name}, which weights do not need and which is not admitted")
    return _Global(role)


def _reduce(machine: _Machine, argument: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise UnsafePickleError("it calls something that is not an admitted function")
    machine.stack.append(_CALLS[function.name](arguments))


def _call_reconstruct(arguments: tuple[Any, ...]) -> _PendingArray:
    # The call's own shape is a placeholder; the real one comes with the state. Taking it would allocate.
    if not isinstance(arguments[0], _Global) or arguments[0].name != "ndarray":
        raise UnsafePickleError("it rebuilds something that is no numpy array")
    return _PendingArray()


def _call_dtype(arguments: tuple[Any, ...]) -> _DType:
    spec = arguments[0]
    if isinstance(spec, bytes):
        spec = spec.decode("ascii")
    if not isinstance(spec, str) or spec not in _DTYPES:
        raise UnsafePickleError(f"it holds an array of type {spec!r}; only plain numbers are admitted")
    return _DType(spec)


def _call_frombuffer(arguments: tuple[Any, ...]) -> NDArray[Any]:
    buffer, dtype, shape, order = arguments
    return _array(buffer, dtype, shape, fortran=order == "F")


def _call_encode(arguments: tuple[Any, ...]) -> bytes:
    text, encoding = arguments
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise UnsafePickleError(f"it encodes text as {encoding!r}; only latin1 is admitted")
    return text.encode("latin-1")


def _call_bytes(arguments: tuple[Any, ...]) -> bytes:
    # bytes(n) would allocate n bytes, so only the empty call is admitted.
    if arguments:
        raise UnsafePickleError("it calls bytes with an argument")
    return b""


def _call_tuple(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    (items,) = arguments or ((),)
    if not isinstance(items, list | tuple):
        raise UnsafePickleError("it makes a tuple of something that is no list")
    return tuple(items)


def _call_dict(arguments: tuple[Any, ...]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for pair in arguments[0] if arguments else ():
        _update(result, list(pair))
    return result


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "reconstruct": _call_reconstruct,
    "dtype": _call_dtype,
    "frombuffer": _call_frombuffer,
    "encode": _call_encode,
    "bytes": _call_bytes,
    "tuple": _call_tuple,
    "dict": _call_dict,
    "ndarray": lambda arguments: _refuse_call("numpy.ndarray"),
}


def _refuse_call(name: str) -> Any:
    raise UnsafePickleError(f"it calls {name} directly, which would allocate from an unchecked header")


def _build(machine: _Machine, argument: Any) -> None:
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, _DType):
        order = state[1]
        order = order.decode("ascii") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "="):
            raise DamagedPickleError(f"unknown byte order {order!r}")
        target.order = order
    elif isinstance(target, _PendingArray):
        if target.value is not None:
            raise DamagedPickleError("the pickle is damaged (an array is filled twice)")
        _, shape, dtype, fortran, buffer = state
        target.value = _array(buffer, dtype, shape, fortran=bool(fortran))
    else:
        raise UnsafePickleError(f"it sets the state of a {type(target).__name__}")


def _array(buffer: Any, dtype: Any, shape: Any, *, fortran: bool) -> NDArray[Any]:
    if not isinstance(buffer, bytes) or not isinstance(dtype, _DType) or not isinstance(shape, tuple):
        raise DamagedPickleError("the pickle is damaged (the parts of an array are of the wrong kind)")
    if len(shape) > 8 or not all(type(side) is int and side >= 0 for side in shape):
        raise DamagedPickleError(f"an array has the impossible shape {shape!r}"[:200])
    numpy_dtype = dtype.numpy()
    if math.prod(shape) * numpy_dtype.itemsize != len(buffer):
        raise DamagedPickleError(
            f"an array of shape {shape} and type {numpy_dtype} needs {math.prod(shape) * numpy_dtype.itemsize} bytes, "
            f"the file holds {len(buffer)}"
        )
    return np.frombuffer(buffer, numpy_dtype).reshape(shape, order="F" if fortran else "C")


def _stop(machine: _Machine, argument: Any) -> None:
    if len(machine.stack) != 1:
        raise DamagedPickleError("the pickle is damaged (it ends with more than one object)")
    machine.result = machine.stack.pop()


def _finish(value: Any) -> Any:
    """Replace the arrays that were filled in place, in the top-level dict and the tuples and dicts just below it."""
    if isinstance(value, _PendingArray):
        if value.value is None:
            raise DamagedPickleError("the pickle is damaged (an array has no contents)")
        return value.value
    if isinstance(value, dict):
        return {key: _finish_item(item) for key, item in value.items()}
    return value


def _finish_item(value: Any) -> Any:
    # Depth is bounded by hand: a weight file nests no deeper, and a hostile one must not exhaust the stack.
    if isinstance(value, tuple | list):
        return tuple(_finish(item) if isinstance(item, _PendingArray) else item for item in value)
    return _finish(value) if isinstance(value, _PendingArray) else value


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

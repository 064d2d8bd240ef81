"""The calls in a pickled numpy array, made on inert tokens: nothing is imported, no header sizes an allocation."""

from __future__ import annotations

import math
from collections.abc import Callable
from sys import getsizeof
from typing import Any

import numpy as np
from numpy.typing import NDArray


class UnsafePickleError(ValueError):
    """The pickle does something that plain data does not need; the message names it."""


class DamagedPickleError(ValueError):
    """The pickle is truncated or inconsistent."""


_DTYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})
_MAX_DIMENSIONS = 8
_MAX_SHOWN = 100

ARRAY_BYTES = 512
"""An array without its contents: a view, its base, dtype and shape. No token is larger."""
_ENTRY_BYTES = 104
"""The largest size of a dict entry, right after the dict has grown."""
_POINTER_BYTES = 8

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
    # Protocol 2 writes empty bytes as a call of bytes; some Paddle versions call tuple.
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "tuple"): "tuple",
    ("builtins", "tuple"): "tuple",
}


_Spend = Callable[[int], None]
"""Charges bytes of memory; raises ``UnsafePickleError`` when there are too many."""


class Global:
    """Stands for an allowed global name; it has a role and does nothing."""

    __slots__ = ("role",)

    def __init__(self, role: str) -> None:
        self.role = role


class DType:
    """A dtype being rebuilt: numpy pickles its kind in a call, and its byte order later as state."""

    __slots__ = ("_order", "_spec")

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._order = "<"

    def set_state(self, state: Any) -> None:
        order = state[1]
        order = order.decode("ascii") if isinstance(order, bytes) else order
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise DamagedPickleError(f"unknown byte order {shown(order)}")
        self._order = order

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self._order + self._spec if self._spec[1:] != "1" else self._spec)


class PendingArray:
    """An array whose shape and bytes come later, once, and the memo slots that it will fill."""

    __slots__ = ("_is_filled", "places")

    def __init__(self) -> None:
        self.places: list[int] = []
        self._is_filled = False

    def fill(self, state: Any) -> NDArray[Any]:
        if self._is_filled:
            raise DamagedPickleError("the pickle is damaged (an array has its contents twice)")
        self._is_filled = True
        _, shape, dtype, fortran, buffer = state
        return _array(buffer, dtype, shape, fortran=bool(fortran))


def shown(value: object) -> str:
    """Return a short text for a message. Containers are named by type: the repr of nested ones may be unbounded."""
    if isinstance(value, str | bytes):
        return ascii(value[:_MAX_SHOWN])
    return ascii(value)[:_MAX_SHOWN] if isinstance(value, int | float | None) else f"a {type(value).__name__}"


def admit(module: Any, name: Any) -> Global:
    """Return the token of a global name.

    Raises:
        UnsafePickleError: weights do not need this name; the message gives it.
    """
    named = isinstance(module, str) and isinstance(name, str)
    role = _GLOBALS.get((module, name)) if named else None
    if role is None:
        full_name = shown(f"{module[:_MAX_SHOWN]}.{name[:_MAX_SHOWN]}")[1:-1] if named else "a name that is not text"
        raise UnsafePickleError(f"it refers to {full_name}, which weights do not need and which is not admitted")
    return Global(role)


def call(function: Any, arguments: Any, spend: _Spend) -> Any:
    """Do what an allowed function does with plain data; the memory is charged to ``spend`` first."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise UnsafePickleError("it calls something that is not an admitted function")
    spend(ARRAY_BYTES)
    return _CALLS[function.role](arguments, spend)


def _call_reconstruct(arguments: tuple[Any, ...], spend: _Spend) -> PendingArray:
    # The shape in the call is a placeholder, and using it would allocate; the real one comes with the state.
    if not isinstance(arguments[0], Global) or arguments[0].role != "ndarray":
        raise UnsafePickleError("it rebuilds something that is not a numpy array")
    return PendingArray()


def _call_dtype(arguments: tuple[Any, ...], spend: _Spend) -> DType:
    spec = arguments[0]
    if isinstance(spec, bytes):
        spec = spec.decode("ascii")
    if not isinstance(spec, str) or spec not in _DTYPES:
        raise UnsafePickleError(f"it holds an array of type {shown(spec)}; only plain numbers are admitted")
    return DType(spec)


def _call_frombuffer(arguments: tuple[Any, ...], spend: _Spend) -> NDArray[Any]:
    buffer, dtype, shape, order = arguments
    return _array(buffer, dtype, shape, fortran=isinstance(order, str) and order == "F")


def _call_encode(arguments: tuple[Any, ...], spend: _Spend) -> bytes:
    text, encoding = arguments
    if not isinstance(text, str) or not isinstance(encoding, str) or encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"it encodes {type(text).__name__} as {shown(encoding)}; only latin1 is admitted")
    spend(len(text))
    return text.encode("latin-1")


def _call_bytes(arguments: tuple[Any, ...], spend: _Spend) -> bytes:
    # bytes(n) would allocate n bytes, so only the empty call is allowed.
    if arguments:
        raise UnsafePickleError("it calls bytes with an argument")
    return b""


def _call_tuple(arguments: tuple[Any, ...], spend: _Spend) -> tuple[Any, ...]:
    (items,) = arguments or ((),)
    if not isinstance(items, list | tuple):
        raise UnsafePickleError("it makes a tuple of something that is not a list")
    spend(_POINTER_BYTES * len(items))
    return tuple(items)


def _call_dict(arguments: tuple[Any, ...], spend: _Spend) -> dict[str, Any]:
    (pairs,) = arguments or ((),)
    if not isinstance(pairs, list | tuple):
        raise UnsafePickleError("it makes a dict of something that is not a list of pairs")
    spend(_ENTRY_BYTES * len(pairs))
    result: dict[str, Any] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise DamagedPickleError("a dict is made of something that is not a list of pairs")
        key, value = pair
        result[text_key(key, spend)] = value
    return result


def text_key(key: Any, spend: _Spend) -> str:
    """Return a dict key as text: Python 2 wrote bytes, which Paddle decodes as latin-1.

    Raises:
        DamagedPickleError: the key is neither text nor bytes.
    """
    if isinstance(key, bytes):
        spend(getsizeof(key))
        return key.decode("latin-1")
    if not isinstance(key, str):
        raise DamagedPickleError(f"a key of a dict is not a string but {type(key).__name__}")
    return key


def _refuse_ndarray(arguments: tuple[Any, ...], spend: _Spend) -> Any:
    raise UnsafePickleError("it calls numpy.ndarray directly, which would allocate from an unchecked header")


_CALLS: dict[str, Callable[[tuple[Any, ...], _Spend], Any]] = {
    "reconstruct": _call_reconstruct,
    "dtype": _call_dtype,
    "frombuffer": _call_frombuffer,
    "encode": _call_encode,
    "bytes": _call_bytes,
    "tuple": _call_tuple,
    "dict": _call_dict,
    "ndarray": _refuse_ndarray,
}


def _array(buffer: Any, dtype: Any, shape: Any, *, fortran: bool) -> NDArray[Any]:
    if not isinstance(buffer, bytes) or not isinstance(dtype, DType) or not isinstance(shape, tuple):
        raise DamagedPickleError("the pickle is damaged (the parts of an array are of the wrong kind)")
    if len(shape) > _MAX_DIMENSIONS or not all(type(side) is int and 0 <= side < 2**63 for side in shape):
        raise DamagedPickleError("an array has an impossible shape")
    numpy_dtype = dtype.numpy()
    needed = math.prod(shape) * numpy_dtype.itemsize
    if needed != len(buffer):
        raise DamagedPickleError(
            f"an array of shape {shape} and type {numpy_dtype} needs {needed} bytes, the file holds {len(buffer)}"
        )
    return np.frombuffer(buffer, numpy_dtype).reshape(shape, order="F" if fortran else "C")

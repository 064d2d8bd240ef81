"""Engines: one short file each behind the contract of ``base``, and the table from name to class."""

from __future__ import annotations

from importlib import import_module

from ..errors import UnknownEngineError, nearest
from .base import Engine

_ENGINES = {
    "onnxruntime": "onnxruntime:OnnxRuntimeEngine",
}
"""Name -> module in this package and class. A module is imported when its engine is asked for, not before."""


def engine_names() -> list[str]:
    """Names of all engines, usable on this machine or not."""
    return list(_ENGINES)


def engine_class(name: str) -> type[Engine]:
    """Return the class of the engine ``name``.

    Raises:
        UnknownEngineError: no such engine; the message names the nearest ones.
        EngineUnavailableError: its library cannot be imported here.
    """
    if name not in _ENGINES:
        raise UnknownEngineError(f"There is no engine named {name!r}. {nearest(name, _ENGINES)}")
    module, _, attribute = _ENGINES[name].partition(":")
    engine: type[Engine] = getattr(import_module(f".{module}", __package__), attribute)
    return engine

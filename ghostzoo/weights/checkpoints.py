"""Finds the network in a training checkpoint, which may add prefixes, nest the state dict, or hold several networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError
from .recognition import LAST_LAYERS

_NAME_TABLE = "StructuredToParameterName@@"
"""An extra entry of paddle.save: a dict of parameter names, not a tensor."""
_OPTIMIZER_KEYS = ("_velocity_0", "_moment_0", "_moment1_0", "_pow_acc_0", "_mean_square_0")
"""How Paddle's optimizers name what they keep of a parameter."""
_MAX_DEPTH = 4
_MAX_DICTS = 64
_MAX_PREFIX = 200
_LISTED = 8
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Network:
    """One network's entries under the official keys."""

    entries: Mapping[str, Any]
    prefix: str
    """What preceded the keys in the file, including the keys of enclosing dicts, each followed by a dot."""
    left_out: int
    """Number of other entries in the checkpoint."""


def tensor(value: Any) -> NDArray[Any] | None:
    """Return an entry's array, if it is one; some Paddle versions save (parameter name, array)."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str | bytes):
        value = value[1]
    return value if isinstance(value, np.ndarray) else None


@dataclass(frozen=True)
class _Place:
    entries: Mapping[str, Any]
    path: str
    key_prefix: str

    @property
    def prefix(self) -> str:
        return self.path + self.key_prefix


def find_network(content: Any, prefix: str | None = None) -> Network:
    """Return the only network in a checkpoint, or the one with the given prefix.

    Prefixes come from wrappers (``module.``, ``_layers.``), from distillation (``Student.``), and from dicts around the
    state dict (``model.``, ``state_dict.``, ``ema.``).

    Args:
        content: the loaded checkpoint.
        prefix: one of those that the error lists; the final dot may be omitted.

    Raises:
        WeightsError: ``content`` is not a dict, holds several networks, or none with this prefix.
    """
    if not isinstance(content, dict):
        hint = " It may be an optimizer's state (.pdopt)." if isinstance(content, list) else ""
        raise WeightsError(f"a weight file holds a dict of tensors, this one holds a {type(content).__name__}.{hint}")
    if any(key.endswith(_OPTIMIZER_KEYS) for key in content):
        raise WeightsError("it is an optimizer's state (.pdopt); the weights are in the .pdparams file beside it.")
    places = _places(content)
    if prefix is not None:
        wanted = prefix if prefix == "" or prefix.endswith(".") else f"{prefix}."
        chosen = [place for place in places if place.prefix == wanted]
        if len(chosen) != 1:
            raise WeightsError(
                f"it has no GhostNet with the prefix {prefix[:_MAX_SHOWN]!r}; its prefixes: {_listed(places)}."
            )
    elif len(places) > 1:
        example = next(place.prefix for place in reversed(places) if place.prefix)
        raise WeightsError(
            f"it holds {len(places)} networks, with the prefixes {_listed(places)}; choose one, as in "
            f"'ghostzoo convert --prefix {_shown(example)[1:-1]}'."
        )
    else:
        chosen = places or [_Place(content, "", "")]
    return _take(content, chosen[0], places)


def _places(content: dict[str, Any]) -> list[_Place]:
    """Find all networks; each dict is visited once, since a hostile file may nest them in each other."""
    found = []
    seen = {id(content)}
    pending: list[tuple[str, dict[str, Any], int]] = [("", content, 0)]
    for path, entries, depth in pending:
        for key, value in entries.items():
            if len(path) + len(key) > _MAX_PREFIX:
                continue
            last = next(filter(key.endswith, LAST_LAYERS), None)
            if last is not None and tensor(value) is not None:
                key_prefix = key.removesuffix(last)  # whatever precedes it is the prefix
                if key_prefix == "" or key_prefix.endswith("."):
                    found.append(_Place(entries, path, key_prefix))
            elif isinstance(value, dict) and id(value) not in seen and depth < _MAX_DEPTH and len(seen) < _MAX_DICTS:
                seen.add(id(value))
                pending.append((f"{path}{key}.", value, depth + 1))
    return found


def _take(content: dict[str, Any], place: _Place, places: list[_Place]) -> Network:
    inner = tuple(
        other.key_prefix
        for other in places
        if other.entries is place.entries and other is not place and other.key_prefix.startswith(place.key_prefix)
    )
    start = len(place.key_prefix)
    entries = {
        key[start:]: value
        for key, value in place.entries.items()
        if key.startswith(place.key_prefix) and not (inner and key.startswith(inner)) and key != _NAME_TABLE
    }
    left_out = len(place.entries) - len(entries) - (_NAME_TABLE in place.entries)
    if place.entries is not content:
        left_out += len(content) - 1 - (_NAME_TABLE in content)
    return Network(entries, place.prefix, left_out)


def _listed(places: list[_Place]) -> str:
    names = [_shown(place.prefix) for place in islice(places, _LISTED)]
    more = f" and {len(places) - _LISTED} more" if len(places) > _LISTED else ""
    return ", ".join(names) + more or "none"


def _shown(prefix: str) -> str:
    shown = prefix if len(prefix) <= _MAX_SHOWN else f"{prefix[:_MAX_SHOWN]}..."
    return ascii(shown)

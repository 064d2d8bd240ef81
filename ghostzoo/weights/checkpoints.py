"""Which entries of a checkpoint are the network's: training adds prefixes, dicts around them, and further networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError

_NAME_TABLE = "StructuredToParameterName@@"
"""Written beside the tensors by paddle.save: a dict from structured to parameter names. Not a tensor."""
_LAST_LAYER = "fc_1.weight"
"""The key by which a network is found; what stands before it is the network's prefix."""
_MAX_DEPTH = 4
_MAX_DICTS = 64
_MAX_PREFIX = 200
_LISTED = 8
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Network:
    """The entries of one network under their official keys."""

    entries: Mapping[str, Any]
    prefix: str
    """What stood before the keys; the keys of dicts around them count, each with a dot."""
    left_out: int
    """Other entries of the checkpoint."""


def tensor(value: Any) -> NDArray[Any] | None:
    """Return the array of an entry, which some versions of Paddle save as (parameter name, array)."""
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
    """Return the network of a checkpoint: the only one, or the one behind ``prefix``.

    Prefixes are those of wrappers (``module.``, ``_layers.``), of the networks of a distillation (``Student.``), and
    the keys of dicts around the state dict (``model.``, ``state_dict.``, ``ema.``).

    Args:
        content: what the file holds.
        prefix: as the error that lists them names it; the last dot may be left out.

    Raises:
        WeightsError: the content is no dict, or has several networks, or none behind ``prefix``.
    """
    if not isinstance(content, dict):
        hint = " It may be an optimizer's state (.pdopt)." if isinstance(content, list) else ""
        raise WeightsError(f"a weight file holds a dict of tensors, this one a {type(content).__name__}.{hint}")
    places = _places(content)
    if prefix is not None:
        wanted = prefix if prefix == "" or prefix.endswith(".") else f"{prefix}."
        chosen = [place for place in places if place.prefix == wanted]
        if len(chosen) != 1:
            raise WeightsError(
                f"it has no GhostNet behind the prefix {prefix[:_MAX_SHOWN]!r}; it has {_listed(places)}."
            )
    elif len(places) > 1:
        example = next(place.prefix for place in reversed(places) if place.prefix)
        raise WeightsError(
            f"it holds {len(places)} networks, behind the prefixes {_listed(places)}; choose one with prefix, "
            f"such as 'ghostzoo convert --prefix {_shown(example)[1:-1]}'."
        )
    else:
        chosen = places or [_Place(content, "", "")]
    return _take(content, chosen[0], places)


def _places(content: dict[str, Any]) -> list[_Place]:
    """Find the networks, going into each dict once: hostile ones may hold each other."""
    found = []
    seen = {id(content)}
    pending: list[tuple[str, dict[str, Any], int]] = [("", content, 0)]
    for path, entries, depth in pending:
        for key, value in entries.items():
            if len(path) + len(key) > _MAX_PREFIX:
                continue
            if key.endswith(_LAST_LAYER) and tensor(value) is not None:
                key_prefix = key.removesuffix(_LAST_LAYER)
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

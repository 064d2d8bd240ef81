"""The catalog: the models that ghostzoo knows by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from ..errors import OptionError, UnknownModelError, nearest
from .models import DEFAULT_MODEL, MODELS
from .record import (
    HUB,
    MODEL_PAGE,
    TIMM_FILE,
    TIMM_RESULTS,
    CatalogModel,
    Figures,
    MeasuredFigures,
    PublishedFigures,
)

__all__ = [
    "DEFAULT_MODEL",
    "HUB",
    "MODEL_PAGE",
    "SORT_KEYS",
    "TIMM_FILE",
    "TIMM_RESULTS",
    "CatalogModel",
    "Figures",
    "MeasuredFigures",
    "PublishedFigures",
    "find_by_repo",
    "find_record",
    "get_model",
    "get_official_model",
    "list_families",
    "list_models",
    "list_official_models",
]

SORT_KEYS: Mapping[str, Callable[[CatalogModel], Any]] = {
    "name": lambda model: model.name.lower(),
    "params": lambda model: model.parameters,
    "mult-adds": lambda model: model.multiply_adds,
    "top1": lambda model: (model.published is None, -model.figures.top1),  # on ImageNet-1k first
}
"""The orders of ``list_models``."""
_BY_NAME = {model.name: model for model in MODELS}


def list_models(
    pattern: str = "*",
    *,
    family: str | None = None,
    max_params: float | None = None,
    min_top1: float | None = None,
    sort: str | None = None,
) -> list[str]:
    """Return the names of the catalog's models, family by family.

    Args:
        pattern: wildcards (``*``, ``?``, ``[...]``) that the name has to match, ignoring case.
        family: one of ``list_families()``.
        max_params: millions of trainable parameters at most.
        min_top1: top-1 accuracy on ImageNet-1k at least, as a fraction of 1.
        sort: one of ``SORT_KEYS``: by name, by accuracy from the best on, or from the smallest on.

    Raises:
        OptionError: there is no such family or order, or ``pattern`` is no string.
    """
    if not isinstance(pattern, str):
        raise OptionError(f"pattern must be a string with wildcards, not {pattern!r}.")
    if family is not None and family not in list_families():
        raise OptionError(f"There is no family {family!r}; there are {', '.join(list_families())}.")
    if sort is not None and sort not in SORT_KEYS:
        raise OptionError(f"Models are sorted by {', '.join(SORT_KEYS)}, not by {sort!r}.")
    chosen = [
        model
        for model in MODELS
        if fnmatchcase(model.name.lower(), pattern.lower())
        and family in (None, model.group)
        and (max_params is None or model.parameters <= 1e6 * max_params)
        and (min_top1 is None or (model.published is not None and model.published.top1 >= min_top1))
    ]
    if sort is not None:
        chosen.sort(key=SORT_KEYS[sort])
    return [model.name for model in chosen]


def is_model(name: str) -> bool:
    """Whether the catalog has a model of that name."""
    return name in _BY_NAME


def list_families() -> list[str]:
    """Names of the families that the catalog has models of."""
    return list(dict.fromkeys(model.group for model in MODELS))


def list_official_models() -> list[str]:
    """Names of the models whose weights PaddleClas publishes."""
    return [name for name, model in _BY_NAME.items() if model.archive_url is not None]


def find_by_repo(repo: str) -> CatalogModel | None:
    """Return the record whose official weights are in this repository of the Hub."""
    return next((model for model in MODELS if model.repo == repo), None)


def find_record(name: str, source_url: str | None) -> CatalogModel | None:
    """Return the record of ``name`` if weights from ``source_url`` are those that it describes."""
    record = _BY_NAME.get(name)
    return record if record is not None and (record.embedded or record.has_weights_at(source_url)) else None


def get_model(name: str) -> CatalogModel:
    """Return the record of ``name``.

    Raises:
        UnknownModelError: no such model; the message names the nearest ones.
    """
    if not isinstance(name, str) or name not in _BY_NAME:
        raise UnknownModelError(f"There is no model named {name!r}. {nearest(name, _BY_NAME)}")
    return _BY_NAME[name]


def get_official_model(name: str) -> CatalogModel:
    """Return the record of ``name``, of which there are official weights.

    Raises:
        UnknownModelError: no such model; the message names the nearest ones.
        OptionError: the model is ghostzoo's own.
    """
    model = get_model(name)
    if model.embedded:
        raise OptionError(
            f"{name} comes with ghostzoo as a bundle and has no official weights; for weights of your own give a name "
            "of your own instead of a catalog model."
        )
    return model

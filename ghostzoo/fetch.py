"""A name or a path -> a verified bundle."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import Any

from .bundle import Bundle
from .catalog import get_model, list_models
from .errors import UnknownModelError, nearest
from .manifest import MANIFEST_FILE


def fetch(model: str | PathLike[str]) -> Bundle:
    """Open the bundle in the folder ``model``.

    Raises:
        UnknownModelError: no such folder; a catalog model's message says how to make its bundle.
        BundleError: the folder holds no bundle, or a damaged one.
    """
    path = Path(model)
    if path.is_dir() or not _is_bare_name(model):
        return Bundle.open(path)
    name = str(model)
    if name not in list_models():
        raise UnknownModelError(
            f"{name!r} is neither a bundle folder (there is no {name}{os.sep}{MANIFEST_FILE}) nor a known model. "
            f"{nearest(name, list_models())}"
        )
    record = get_model(name)
    raise UnknownModelError(
        f"There is no bundle of {name} on this machine; download {record.weights_url} and run "
        f"'ghostzoo convert --model {name} --weights {name}_pretrained.pdparams --out {name}'."
    )


def describe_model(model: str | PathLike[str]) -> dict[str, Any]:
    """Return what is known of a bundle folder (which is verified for that) or of a catalog model, as JSON types.

    Raises:
        UnknownModelError: it is neither.
        BundleError: the folder holds no bundle, or a damaged one.
    """
    if isinstance(model, str) and model in list_models() and not Path(model).is_dir():
        return get_model(model).to_dict()
    return fetch(model).to_dict()


def _is_bare_name(model: str | PathLike[str]) -> bool:
    return isinstance(model, str) and not any(separator in model for separator in ("/", "\\", os.sep))

"""A name or a path -> a verified bundle."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import Any

from .bundle import Bundle
from .catalog import DEFAULT_MODEL, get_model, list_models
from .errors import UnknownModelError, nearest
from .manifest import MANIFEST_FILE

EMBEDDED_FOLDER = Path(__file__).with_name("models")
"""The bundles that come with the package."""


def fetch(model: str | PathLike[str] | None = None) -> Bundle:
    """Open a bundle: the folder ``model``, or the one of that name that comes with the package.

    Args:
        model: a folder or a name; ``None`` is the default model of the package, whatever folders there are.

    Raises:
        UnknownModelError: no such folder; a catalog model's message says how to make its bundle.
        BundleError: the folder holds no bundle, or a damaged one.
    """
    if model is None:
        return _open_embedded(DEFAULT_MODEL)
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
    if record.embedded:
        return _open_embedded(name)
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


def _open_embedded(name: str) -> Bundle:
    return Bundle.open(EMBEDDED_FOLDER / name, origin="embedded")


def _is_bare_name(model: str | PathLike[str]) -> bool:
    return isinstance(model, str) and not any(separator in model for separator in ("/", "\\", os.sep))

"""A name, a path or a repository -> a verified bundle."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from .bundle.folder import Bundle
from .catalog import DEFAULT_MODEL, get_model, list_models
from .embedded import open_embedded
from .folders import restore
from .origins.options import FetchOptions


def fetch(
    model: str | PathLike[str] | None = None,
    options: FetchOptions | None = None,
    *,
    refresh: bool = False,
    accept: str | None = None,
) -> Bundle:
    """Open a bundle; ``Bundle.origin`` tells where it was found.

    Args:
        model: a folder; a repository of the Hub as ``hf://owner/name[@revision]`` or ``owner/name[@revision]``; or a
            name, which is looked for in the package, in the folders of ``GHOSTZOO_MODELS``, in the cache, on the Hub,
            and at last among the official weights, of which the bundle is then built. ``None`` is the default model of
            the package, whatever folders there are.
        options: where models are fetched from and kept.
        refresh: pass by the cache and fetch anew.
        accept: SHA-256 of official weights that may replace those of the first download.

    Raises:
        UnknownModelError: there is no such model.
        BundleError: the bundle that was found is damaged, or was changed on its way.
        WeightsError: the official weights are others than those of the first download, or fit no such model.
        FetchError: the model could not be had; the message says what was tried.
        OptionError: an option cannot be honoured.
    """
    options = options or FetchOptions()
    if isinstance(model, str):
        restore(Path(model))
    if model is None or not isinstance(model, str) or Path(model).is_dir():
        options.refuse_revision(model or DEFAULT_MODEL)
        return open_embedded(DEFAULT_MODEL) if model is None else Bundle.open(model)
    from .origins.search import search  # opening a folder should not wait for it

    return search(model, options, refresh=refresh, accept=accept)


def describe_model(model: str | PathLike[str], options: FetchOptions | None = None) -> dict[str, Any]:
    """Return what is known of a catalog model, or of any other bundle (which is fetched and verified), as JSON types.

    Raises:
        GhostZooError: as ``fetch``.
    """
    asked_at_hub = options is not None and options.revision
    if isinstance(model, str) and model in list_models() and not Path(model).is_dir() and not asked_at_hub:
        return get_model(model).to_dict()
    return fetch(model, options).to_dict()

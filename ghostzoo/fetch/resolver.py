"""A name, a path or a repository -> a verified bundle."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from .._utils.folders import restore
from ..bundle.folder import Bundle
from ..bundle.manifest import MANIFEST_FILE
from ..catalog import DEFAULT_MODEL, get_model, list_models
from ..errors import FetchError, UnknownModelError, nearest
from .huggingface import fetch_from_hub, open_kept, parse_reference, published_as
from .huggingface_client import SCHEME
from .options import MODELS_VARIABLE, NAMESPACE_VARIABLE, WEIGHTS_VARIABLE, FetchOptions, model_folders
from .store import Store, StoreError, is_bundle_folder


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
    pass

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


EMBEDDED_FOLDER = Path(__file__).with_name("models")


def open_embedded(name: str) -> Bundle:
    """Open and verify the embedded bundle ``name``."""
    return Bundle.open(EMBEDDED_FOLDER / name, origin="embedded")


_log = logging.getLogger("ghostzoo")


def search(model: str, options: FetchOptions, *, refresh: bool, accept: str | None) -> Bundle:
    """Return the bundle that a repository of the Hub or a name stands for; arguments and errors as ``fetch``'s."""
    store = Store(options.models_cache)
    reference = parse_reference(model, options)
    if reference is not None:
        try:
            return fetch_from_hub(reference, store, options, refresh=refresh)
        except FetchError as error:
            if model.startswith(SCHEME):
                raise
            raise type(error)(f"There is no folder {model}, and the Hub does not help: {error}") from error
    if not _is_bare_name(model):
        options.refuse_revision(model)
        return Bundle.open(model)
    return _Search(model, store, options, refresh, accept).run()


class _Search:
    """The search for one name, place after place."""

    def __init__(self, name: str, store: Store, options: FetchOptions, refresh: bool, accept: str | None) -> None:
        self.name = name
        self.store = store
        self.options = options
        self.refresh = refresh or accept is not None
        self.accept = accept
        self.record = get_model(name) if name in list_models() else None
        self.published = published_as(name, options)
        self.tried: list[str] = []

    def run(self) -> Bundle:
        """Return the first bundle that is found.

        Raises:
            UnknownModelError: the name is in no place and in no list.
            FetchError: it is known but cannot be had.
            OptionError: a revision is asked for, and the model is on no Hub.
        """
        places: tuple[Callable[[], Bundle | None], ...] = (
            self._embedded,
            self._model_folders,
            self._cache,
            self._hub,
            self._official,
        )
        if self.options.revision:
            if self.published is None:
                self.options.refuse_revision(self.name)
            places = (self._hub,)
        for place in places:
            bundle = place()
            if bundle is not None:
                _log.info("%s: %s, %s", self.name, bundle.origin, bundle.path)
                return bundle
        raise self._failure()

    def _embedded(self) -> Bundle | None:
        return open_embedded(self.name) if self.record and self.record.embedded else None

    def _model_folders(self) -> Bundle | None:
        for folder in model_folders():
            restore(folder / self.name)
            if is_bundle_folder(folder / self.name):
                return Bundle.open(folder / self.name, origin="models folder")
            self.tried.append(f"{MODELS_VARIABLE}: no {folder / self.name / MANIFEST_FILE}")
        return None

    def _cache(self) -> Bundle | None:
        if self.refresh:
            return None
        bundle = open_kept(self.published, self.store, self.options) if self.published else None
        if bundle is None and self.record is not None:
            bundle = self.store.open(self.store.official_path(self.name))
        if bundle is None:
            self.tried.append(f"cache: nothing usable in {self.store.root}")
        return bundle

    def _hub(self) -> Bundle | None:
        if self.accept is not None:
            return None
        if self.published is None:
            self.tried.append(
                f"Hub: not asked, since {self.name} has no pinned repository and {NAMESPACE_VARIABLE} is unset"
            )
            return None
        try:
            return fetch_from_hub(self.published, self.store, self.options, refresh=self.refresh)
        except StoreError:
            raise
        except FetchError as error:
            self.tried.append(f"Hub: {error}")
            if self.record is not None and not self.options.is_offline and not self.options.revision:
                _log.warning("%s Going on with the official weights.", error)
            return None

    def _official(self) -> Bundle | None:
        if self.record is None or self.record.weights_url is None:
            return None
        from .paddleclas import build_from_official

        try:
            return build_from_official(self.record, self.store, self.options, refresh=self.refresh, accept=self.accept)
        except StoreError:
            raise
        except FetchError as error:
            self.tried.append(f"official weights: {error}")
            return None

    def _failure(self) -> Exception:
        if self.record is None and self.published is None:
            return UnknownModelError(
                f"{self.name!r} is neither a bundle folder (there is no {self.name}{os.sep}{MANIFEST_FILE}) nor a "
                f"known model. {nearest(self.name, list_models())}"
            )
        steps = "; ".join(f"({number}) {step.rstrip('.')}" for number, step in enumerate(self.tried, start=1))
        if self.options.is_offline:
            advice = f"Run 'ghostzoo pull {self.name}' while online"
        else:
            advice = f"Check the network and try again, or name a mirror in HF_ENDPOINT or {WEIGHTS_VARIABLE}"
        return FetchError(f"{self.name} was not found. Tried, in this order: {steps}. {advice}.")


def _is_bare_name(model: str) -> bool:
    return not any(separator in model for separator in ("/", "\\", os.sep))

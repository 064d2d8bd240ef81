"""From a model's name to a verified bundle: the only place that decides where to look, and in which order."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .._utils.files import restore
from .._utils.urls import scheme_of
from ..bundle.folder import Bundle
from ..bundle.manifest import MANIFEST_FILE
from ..catalog import DEFAULT_MODEL, CatalogModel, find_by_repo, get_model, is_model, list_models
from ..errors import FetchError, OptionError, UnknownModelError, nearest
from .options import (
    CATALOG_SCHEME,
    HUB_SCHEME,
    MODELS_VARIABLE,
    NAMESPACE_VARIABLE,
    WEIGHTS_VARIABLE,
    FetchOptions,
    HubModel,
    model_folders,
    parse_reference,
)

if TYPE_CHECKING:
    from .store import Store

BUNDLED_FOLDER = Path(__file__).parents[1] / "models"
"""The bundles in the package, each in a folder of its name."""

_HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", re.ASCII)

_log = logging.getLogger("ghostzoo")


def fetch(
    model: str | PathLike[str] | None = None,
    options: FetchOptions | None = None,
    *,
    refresh: bool = False,
    accept: str | None = None,
) -> Bundle:
    """Open a bundle; ``Bundle.origin`` tells where it was found.

    Args:
        model: a folder; a Hub repository as ``hf://owner/name[@revision]`` or ``owner/name[@revision]``; or a name,
            which is looked up in the package, in the folders of ``GHOSTZOO_MODELS``, in the cache, on the Hub, and
            finally among the official weights, from which the bundle is then built. If a folder has the name of a
            catalog model, the folder is used, with a warning; ``./name`` always means the folder, ``zoo://name`` the
            model. ``None`` is the package's default model.
        options: where models are fetched from and kept.
        refresh: ignore the cache and fetch again.
        accept: SHA-256 of official weights that may replace those of the first download.

    Raises:
        UnknownModelError: there is no such model.
        BundleError: the bundle is damaged, or was changed on its way.
        WeightsError: the official weights differ from the first download, or do not fit the model.
        FetchError: the model is not available; the message says what was tried.
        OptionError: an option does not apply.
    """
    options = options or FetchOptions()
    if model is None:
        options.refuse_revision(DEFAULT_MODEL)
        return open_bundled(DEFAULT_MODEL)
    _check_model(model)
    if not isinstance(model, str):
        options.refuse_revision(model)
        return Bundle.open(model)
    if model.startswith(CATALOG_SCHEME):
        return _Search(get_model(model.removeprefix(CATALOG_SCHEME)).name, options, refresh, accept).run()
    restore(Path(model))
    if os.path.isdir(model):  # noqa: PTH112  # unlike Path's, it raises nothing
        options.refuse_revision(model)
        if is_model(model):
            _log.warning(
                "%s is a folder here and a model of the catalog; the folder is used. Write ./%s to say so, or %s%s "
                "for the catalog's.",
                *(model, model, CATALOG_SCHEME, model),
            )
        return Bundle.open(model)
    reference = parse_reference(model, options)
    if reference is not None and (record := find_by_repo(reference.repo)) is not None:
        if reference.revision != "main":
            raise OptionError(f"{reference.repo} holds weights and no bundle; load {record.name}, without a revision.")
        return _Search(record.name, options, refresh, accept).run()
    if reference is not None:
        from .huggingface import fetch_from_hub
        from .store import Store

        try:
            return fetch_from_hub(reference, Store(options.models_cache), options, refresh=refresh)
        except FetchError as error:
            if model.startswith(HUB_SCHEME):
                raise
            raise type(error)(f"There is no folder {model}, and the Hub does not help: {error}") from error
    if any(separator in model for separator in ("/", "\\", os.sep)):
        options.refuse_revision(model)
        return Bundle.open(model)
    return _Search(model, options, refresh, accept).run()


def _check_model(model: object) -> None:
    """Refuse what names no model, before anybody is asked for it.

    Raises:
        OptionError: it is neither a string nor a path, is empty, or is a URL that no model is fetched from.
        UnknownModelError: it is a file, and not the folder of a bundle.
    """
    if not isinstance(model, str | PathLike):
        raise OptionError(f"A model is named by a string or the path of its folder, not by {model!r}.")
    text = os.fspath(model)
    if not text.strip():
        raise OptionError("The model's name is empty; 'ghostzoo list' shows names.")
    scheme = scheme_of(text)
    if scheme is not None and not text.startswith((HUB_SCHEME, CATALOG_SCHEME)):
        page = _HUB_PAGE.match(text)
        instead = f"write {HUB_SCHEME}{page[1]}" if page else f"give a name, a folder, or {HUB_SCHEME}owner/name"
        raise OptionError(f"No model is fetched from a URL that begins with {scheme}://; {instead}.")
    if not is_model(text) and os.path.isfile(text):  # noqa: PTH113  # unlike Path's, it raises nothing
        raise UnknownModelError(_explain_file(text))


def _explain_file(file: str) -> str:
    if file.endswith(".pdparams"):
        return (
            f"{file} is a weight file, and a model is the folder of a bundle; make one with 'ghostzoo convert "
            f"--weights {file} --model NAME --out FOLDER', or with --name for a network of your own."
        )
    folder = os.path.dirname(file) or "."  # noqa: PTH120
    if os.path.basename(file) == MANIFEST_FILE:  # noqa: PTH119
        return f"{file} is one file of a bundle; give its folder, {folder}."
    return f"{file} is a file, and a model is the folder of a bundle, which holds a {MANIFEST_FILE}; give that folder."


def open_bundled(name: str) -> Bundle:
    """Open and verify the package's bundle ``name``."""
    return Bundle.open(BUNDLED_FOLDER / name, origin="embedded")


def look_up(model: str | PathLike[str], options: FetchOptions | None = None) -> CatalogModel | Bundle:
    """Return the record of a catalog model, or any other model's bundle (which is fetched and verified).

    Raises:
        GhostZooError: as ``fetch``.
    """
    asked_at_hub = options is not None and options.revision
    if isinstance(model, str) and is_model(model) and not Path(model).is_dir() and not asked_at_hub:
        return get_model(model)
    return fetch(model, options)


class _Search:
    """The search for one name, place after place; what a place needs is imported when it is its turn."""

    def __init__(self, name: str, options: FetchOptions, refresh: bool, accept: str | None) -> None:
        self.name = name
        self.options = options
        self.refresh = refresh or accept is not None
        self.accept = accept
        self.record = get_model(name) if is_model(name) else None
        self.tried: list[str] = []

    @cached_property
    def store(self) -> Store:
        from .store import Store

        return Store(self.options.models_cache)

    @cached_property
    def published(self) -> HubModel | None:
        """Where the model is on the Hub, if anywhere."""
        from .lockfile import published_as

        return published_as(self.name, self.options)

    def run(self) -> Bundle:
        """Return the first bundle found.

        Raises:
            UnknownModelError: the name is unknown.
            FetchError: it is known but not available.
            OptionError: a revision is given, and the model is not from the Hub.
        """
        places: tuple[Callable[[], Bundle | None], ...] = (
            self._bundled,
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

    def _bundled(self) -> Bundle | None:
        return open_bundled(self.name) if self.record and self.record.embedded else None

    def _model_folders(self) -> Bundle | None:
        for folder in model_folders():
            restore(folder / self.name)
            if os.path.isfile(folder / self.name / MANIFEST_FILE):  # noqa: PTH113  # unlike Path's, it raises nothing
                return Bundle.open(folder / self.name, origin="models folder")
            self.tried.append(f"{MODELS_VARIABLE}: no {folder / self.name / MANIFEST_FILE}")
        return None

    def _cache(self) -> Bundle | None:
        if self.refresh:
            return None
        bundle = None
        if self.published is not None:
            from .huggingface import open_kept

            bundle = open_kept(self.published, self.store, self.options)
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
        from .huggingface import fetch_from_hub
        from .store import StoreError

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
        from .official import build_from_official
        from .store import StoreError

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
                f"There is no model {self.name!r}: no folder here has that name, and nothing in the catalog. "
                f"{nearest(self.name, list_models())}"
            )
        *before, last = (step.rstrip(".") for step in self.tried)
        steps = "; ".join(f"({number}) {step}" for number, step in enumerate(before, start=1))
        if self.options.is_offline:
            advice = f"Run 'ghostzoo pull {self.name}' while online"
        else:
            advice = f"Check the network and try again, or name a mirror in HF_ENDPOINT or {WEIGHTS_VARIABLE}"
        tried = f" Tried before, in this order: {steps}." if before else ""
        return FetchError(f"{self.name} was not found. {last[0].upper()}{last[1:]}. {advice}.{tried}")

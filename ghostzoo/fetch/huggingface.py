"""The Hugging Face Hub: from a repository at a revision to a verified bundle in the store."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from .._utils.hashes import COMMIT
from ..bundle.folder import Bundle
from ..errors import BundleError
from .huggingface_client import Hub, UnreachableError
from .lockfile import find_published
from .options import FetchOptions, HubModel
from .store import Store

_log = logging.getLogger("ghostzoo")


def open_kept(model: HubModel, store: Store, options: FetchOptions) -> Bundle | None:
    """Return the store's bundle or ``None``, without checking whether a branch or tag has moved."""
    commit = model.revision
    if not COMMIT.fullmatch(commit):
        commit = store.known_commit(model.repo, options.hub_endpoint, commit) or ""
    return _open(store, model.repo, commit) if commit else None


def fetch_from_hub(model: HubModel, store: Store, options: FetchOptions, *, refresh: bool = False) -> Bundle:
    """Return the bundle, from the store if it has this commit, otherwise from the Hub.

    A pinned commit in the store costs no request, a branch or tag costs one. If the Hub cannot be reached, the commit
    that the branch had last time is used, with a warning.

    Args:
        model: what to fetch.
        store: where bundles are kept.
        options: endpoint, token, offline.
        refresh: download it again even if the store has it.

    Raises:
        FetchError: the Hub does not deliver it.
        BundleError: the downloaded bundle is refused.
    """
    pinned = bool(COMMIT.fullmatch(model.revision))
    if (pinned or options.is_offline) and not refresh and (kept := open_kept(model, store, options)):
        return kept
    hub = Hub(model, options)
    try:
        commit = model.revision if pinned else hub.commit()
    except UnreachableError as error:
        kept = None if refresh else open_kept(model, store, options)
        if kept is None:
            raise
        _log.warning("%s The bundle of commit %s is used, as the last time.", error, kept.path.name)
        return kept
    bundle = None if refresh else _open(store, model.repo, commit)
    if bundle is None:
        with store.exclusive(store.hub_path(model.repo, commit)) as path:
            bundle = None if refresh else _open(store, model.repo, commit)
            bundle = bundle or _download(hub, commit, path, store)
    if not pinned:
        store.remember_commit(model.repo, options.hub_endpoint, model.revision, commit)
    return bundle


def _open(store: Store, repo: str, commit: str) -> Bundle | None:
    pin = find_published(repo, commit)
    return store.open(store.hub_path(repo, commit), manifest_sha256=pin.manifest_sha256 if pin else None)


def _download(hub: Hub, commit: str, path: Path, store: Store) -> Bundle:
    pin = find_published(hub.model.repo, commit)
    sha256 = pin.manifest_sha256 if pin else None
    with store.scratch(path) as scratch:
        folder = scratch / "bundle"
        try:
            hub.save(folder, commit, sha256)
            bundle = Bundle.open(folder, origin="hub", manifest_sha256=sha256)
        except BundleError as error:
            raise type(error)(
                f"{hub} is refused: {str(error).removeprefix(f'Bundle {folder}: ')} Nothing of it was kept."
            ) from error
        except OSError as error:
            raise store.unwritable(error) from error
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's metadata
        store.install(folder, path)
    return replace(bundle, path=path)

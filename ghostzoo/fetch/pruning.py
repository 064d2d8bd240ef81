"""Maintenance of the cached models: checking them, and removing unused or unwanted ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .._utils.cache import cache_folder
from ..bundle.folder import Bundle
from ..errors import BundleError, UnknownModelError
from .lockfile import find_published
from .store import Entry, Store, folder_size


@dataclass(frozen=True)
class Removal:
    """Something that may be removed."""

    path: Path
    reason: str

    @property
    def size(self) -> int:
        """Bytes."""
        return folder_size(self.path)

    def carry_out(self, store: Store) -> None:
        """Remove it; a bundle is renamed first, so that no process sees a partly removed one.

        Raises:
            FetchError: it cannot be removed.
        """
        try:
            if self.path.is_dir():
                with store.scratch(self.path) as scratch:
                    self.path.rename(scratch / "old")
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise store.unwritable(error) from error


def damage(entry: Entry) -> str | None:
    """Read and check all files of a bundle; return what is wrong, or ``None``."""
    repo, _, commit = entry.name.partition("@")
    pin = find_published(repo, commit)
    try:
        Bundle.open(entry.path, manifest_sha256=pin.manifest_sha256 if pin else None).release()
    except BundleError as error:
        return str(error)
    return None


def choose(store: Store, names: Sequence[str]) -> list[Entry]:
    """Return the bundles with these names (a repository's name means all its commits), or all if there are none.

    Raises:
        UnknownModelError: no bundle has one of the names.
    """
    entries = list(store.entries())
    chosen = [entry for entry in entries if not names or entry.name in names or entry.name.split("@")[0] in names]
    for name in names:
        if not any(name in (entry.name, entry.name.split("@")[0]) for entry in chosen):
            kept = ", ".join(entry.name for entry in entries) or "nothing"
            raise UnknownModelError(f"{store.root} holds no {name!r}; it holds {kept}.")
    return chosen


def useless(store: Store) -> Iterator[Removal]:
    """Yield what will not be used again: leftovers of killed processes, damaged bundles, old commits of branches."""
    for folder in store.folders():
        with ExitStack() as stack:
            if all(stack.enter_context(store.idle(lock)) for lock in sorted(folder.glob(".*.lock"))):
                store.restore_all(folder)
                for path in sorted(folder.glob(".*")):
                    if path.suffix != ".lock":
                        yield Removal(path, "unfinished")
    for entry in store.entries():
        repo, _, commit = entry.name.partition("@")
        if damage(entry):
            yield Removal(entry.path, "damaged")
        elif commit in store.superseded_commits(repo) and not find_published(repo, commit):
            yield Removal(entry.path, "superseded")


def prepared_models() -> Iterator[Removal]:
    """Yield the cache folders with what engines have prepared; they are recreated when needed."""
    root = cache_folder()
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.is_dir() and folder.name != "models":
            yield Removal(folder, "prepared by an engine")


def remove_prepared(removal: Removal) -> None:
    """Remove such a folder; files that another process is writing may remain."""
    shutil.rmtree(removal.path, ignore_errors=True)

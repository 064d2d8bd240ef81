"""The folder for fetched models: each is a plain bundle, which appears complete or not at all.

::

    hub/<owner>--<name>/<commit>/       a bundle
    hub/<owner>--<name>/branches.json   the commits of branches and tags, as of the last request
    official/<name>/bundle/             a bundle built from the official weights
    official/<name>/first-download.json the hash of the weights first downloaded

Names that begin with a dot are locks or incomplete.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .._utils.cache import CACHE_VARIABLE, NO_CACHE
from .._utils.files import write_atomically
from .._utils.locks import LockHeldError, acquire
from ..bundle.folder import Bundle
from ..errors import BundleError, FetchError

_HUB = "hub"
_OFFICIAL = "official"
_BRANCHES_FILE = "branches.json"
_SUPERSEDED = "superseded"
_OLD = "replaced"
"""In a scratch folder: the old bundle, while the new one replaces it."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PATIENCE = 2.0
"""Seconds of waiting for another process before a message is logged."""

_log = logging.getLogger("ghostzoo")


class StoreError(FetchError):
    """The folder cannot be written, so looking elsewhere is pointless."""


@dataclass(frozen=True)
class Entry:
    """One bundle in the store."""

    name: str
    """A model's name, or ``owner/name@commit``."""
    path: Path

    @property
    def size(self) -> int:
        """Size of all its files in bytes."""
        return folder_size(self.path)


class Store:
    """The models in ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def hub_path(self, repo: str, commit: str) -> Path:
        """Return the path, existing or not, of the bundle of ``commit`` of the repository ``repo``."""
        return self._repository(repo) / commit

    def official_path(self, name: str) -> Path:
        """Return the path, existing or not, of the bundle built from the official weights of ``name``."""
        return self.root / _OFFICIAL / name / "bundle"

    def entries(self) -> Iterator[Entry]:
        """Yield all bundles, including damaged ones."""
        for path in sorted(self.root.glob(f"{_OFFICIAL}/[!.]*/bundle")):
            yield Entry(path.parent.name, path)
        for path in sorted(self.root.glob(f"{_HUB}/[!.]*/[!.]*")):
            if path.is_dir():
                yield Entry(f"{path.parent.name.replace('--', '/', 1)}@{path.name}", path)

    def open(self, path: Path, *, manifest_sha256: str | None = None) -> Bundle | None:
        """Open the bundle at ``path``; return ``None`` if there is none, or a damaged one, which is logged."""
        if not path.is_dir() and not self._put_back(path):
            return None
        try:
            return Bundle.open(path, origin="cache", manifest_sha256=manifest_sha256)
        except BundleError as error:
            _log.warning("The cached model is not used: %s", error)
            return None

    def known_commit(self, repo: str, endpoint: str, revision: str) -> str | None:
        """Return the commit of ``revision`` as of the last request to this Hub."""
        return self._branches(repo).get(f"{endpoint} {revision}")

    def remember_commit(self, repo: str, endpoint: str, revision: str, commit: str) -> None:
        """Record the commit of ``revision``, if the folder can be written."""
        key = f"{endpoint} {revision}"
        if self._branches(repo).get(key) == commit:
            return
        try:
            with self.exclusive(self._repository(repo) / _BRANCHES_FILE) as path:
                branches = self._branches(repo)
                superseded = {*branches.pop(_SUPERSEDED, "").split(), branches.get(key, "")}
                branches[key] = commit
                branches[_SUPERSEDED] = " ".join(sorted(superseded - set(branches.values())))
                write_atomically(path, json.dumps(branches, indent=2).encode())
        except (StoreError, OSError) as error:
            _log.info("Could not note that %s is now %s: %s", key, commit, error)

    def superseded_commits(self, repo: str) -> set[str]:
        """Return the commits that branches and tags no longer point to."""
        return set(self._branches(repo).get(_SUPERSEDED, "").split())

    def folders(self) -> Iterator[Path]:
        """Yield the folders that contain bundles and leftovers of killed processes."""
        yield from sorted((*self.root.glob(f"{_HUB}/[!.]*"), *self.root.glob(f"{_OFFICIAL}/[!.]*")))

    @contextmanager
    def idle(self, lock_file: Path) -> Iterator[bool]:
        """Yield whether no process holds this lock; nobody can take it meanwhile."""
        try:
            lock = acquire(lock_file, seconds=0)
        except (LockHeldError, OSError):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @contextmanager
    def exclusive(self, path: Path) -> Iterator[Path]:
        """Let only one process at a time create ``path``; leftovers of killed processes are removed first.

        Raises:
            StoreError: the folder cannot be written or locked.
        """
        lock_file = path.with_name(f".{path.name}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock = acquire(lock_file, _PATIENCE)
            except LockHeldError:
                _log.warning("Another process is fetching %s; waiting for it.", path)
                lock = acquire(lock_file)
        except OSError as error:
            raise self.unwritable(error) from error
        try:
            self._restore(path)
            for left in path.parent.glob(f".{path.name}-*.tmp"):
                shutil.rmtree(left, ignore_errors=True)
            yield path
        finally:
            lock.release()

    @contextmanager
    def scratch(self, path: Path) -> Iterator[Path]:
        """Yield an empty folder next to ``path``, which is removed afterwards.

        Raises:
            StoreError: the folder cannot be written.
        """
        try:
            folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent))
        except OSError as error:
            raise self.unwritable(error) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def install(self, folder: Path, path: Path) -> None:
        """Move the finished bundle ``folder`` from its scratch folder to ``path``, replacing an old one.

        Raises:
            StoreError: the folder cannot be written.
        """
        try:
            if path.exists():
                path.rename(folder.with_name(_OLD))
            folder.rename(path)
        except OSError as error:
            raise self.unwritable(error) from error

    def _put_back(self, path: Path) -> bool:
        """Restore a bundle whose replacement was interrupted; return whether there is a bundle now."""
        lock_file = path.with_name(f".{path.name}.lock")
        if not any(path.parent.glob(f".{path.name}-*.tmp/{_OLD}")):
            return False
        with self.idle(lock_file) as idle:  # another process is about to put the new one there
            if idle:
                self._restore(path)
        return path.is_dir()

    def restore_all(self, folder: Path) -> None:
        """Restore the bundles in ``folder`` whose replacement was interrupted; no process may be writing there."""
        for old in folder.glob(f".*-*.tmp/{_OLD}"):
            self._restore(folder / old.parent.name[1:].rpartition("-")[0])

    def _restore(self, path: Path) -> None:
        for old in path.parent.glob(f".{path.name}-*.tmp/{_OLD}"):
            if not path.exists():
                with suppress(OSError):  # it will be fetched again
                    old.rename(path)

    def unwritable(self, error: Exception) -> StoreError:
        """Return the error that says that nothing can be kept here, and what to do."""
        another = f"name another folder with --cache-dir, cache_dir= or {CACHE_VARIABLE}"
        if self.root.is_relative_to(NO_CACHE):
            return StoreError(f"There is no home folder to keep models in; {another.replace('another', 'a')}.")
        file = next((place for place in (self.root, *self.root.parents) if place.is_file()), None)
        if file is not None:
            return StoreError(f"{file} is a file, so no models can be kept in it; {another}.")
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        if getattr(error, "errno", None) in _FULL:
            another = f"free some space there, or {another}"
        return StoreError(f"{self.root} cannot be written ({reason}); {another}.")

    def _repository(self, repo: str) -> Path:
        return self.root / _HUB / repo.replace("/", "--")  # the Hub does not allow '--' in names

    def _branches(self, repo: str) -> dict[str, str]:
        try:
            content = json.loads((self._repository(repo) / _BRANCHES_FILE).read_bytes())
        except (OSError, ValueError):  # it only saves a request to the Hub
            return {}
        return {key: str(value) for key, value in content.items()} if isinstance(content, dict) else {}


def folder_size(path: Path) -> int:
    """Return the size in bytes of all files in ``path``, or of the file itself."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())

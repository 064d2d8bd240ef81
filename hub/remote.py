"""A repository on a Hub, as publishing sees it: the Hub's own client does the work, failures are one clear sentence."""

from __future__ import annotations

import hashlib
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import disable_progress_bars

from ghostzoo.bundle.manifest import MANIFEST_FILE, Manifest
from ghostzoo.errors import BundleError, GhostZooError

_AGAIN = "run the same command again: what is there already is not sent twice"


class PublishError(GhostZooError):
    """The Hub refused, or could not be reached; the message says which repository, why, and what to do."""


@dataclass(frozen=True)
class State:
    """What a repository holds."""

    head: str
    """The commit of its branch ``main``."""
    private: bool
    files: Mapping[str, str]
    """Path -> SHA-256 of a large file, Git's hash of any other."""
    tags: Mapping[str, str]
    """Tag -> commit."""

    listed: frozenset[str]
    """Paths that the manifest of the bundle in it lists; what else is there is somebody's own."""

    def holds(self, contents: Mapping[str, bytes]) -> bool:
        """Whether it has these files, and none of an earlier bundle besides."""
        return not self.stale(contents) and all(
            self.files.get(path) in (hashlib.sha256(data).hexdigest(), _git_hash(data))
            for path, data in contents.items()
        )

    def stale(self, contents: Mapping[str, bytes]) -> list[str]:
        """Return the files of an earlier bundle; a graph left behind would be taken for the new bundle's."""
        return sorted((self.listed & self.files.keys()) - contents.keys())


_WELCOME_FILES = (".gitattributes", ".gitignore", "README.md", "LICENSE")
"""What a repository may have that was made by hand and is still empty."""


class Remote:
    """The repository ``repo`` on the Hub at ``endpoint`` (``None``: the client's own)."""

    def __init__(self, repo: str, endpoint: str | None = None, token: str | None = None) -> None:
        self.repo = repo
        self._api = HfApi(endpoint=endpoint, token=token, library_name="ghostzoo")
        self.endpoint: str = self._api.endpoint
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # warnings of what is handled here
        if not sys.stderr.isatty():
            disable_progress_bars()

    def check_login(self) -> str:
        """Return the name of the account that the token is of."""
        with self._explained("asking whose token it is"):
            return str(self._api.whoami()["name"])

    def read(self) -> State | None:
        """Return what the repository holds, or ``None`` if there is none that the token may see."""
        with self._explained("reading the repository"):
            try:
                info = self._api.model_info(self.repo)
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None
            head = str(info.sha)
            entries = self._api.list_repo_tree(self.repo, recursive=True, revision=head)
            files = {
                entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
                for entry in entries
                if isinstance(entry, RepoFile)
            }
            tags = {tag.name: tag.target_commit for tag in self._api.list_repo_refs(self.repo).tags}
            listed = self._listed(head) if MANIFEST_FILE in files else frozenset()
        return State(head, bool(info.private), files, tags, listed)

    def _listed(self, commit: str) -> frozenset[str]:
        with tempfile.TemporaryDirectory() as folder:
            path = self._api.hf_hub_download(self.repo, MANIFEST_FILE, revision=commit, cache_dir=folder)
            try:
                return frozenset(Manifest.from_json(Path(path).read_bytes()).files)
            except BundleError:  # it is about to be replaced
                return frozenset()

    def create(self, private: bool) -> None:
        """Make the repository; that it is there already is fine."""
        with self._explained("creating the repository"):
            self._api.create_repo(self.repo, private=private or None, exist_ok=True)

    def upload(self, folder: Path, title: str, parent: str, stale: list[str]) -> str:
        """Upload ``folder`` and delete the files ``stale`` in one commit upon ``parent``; return the commit."""
        with self._explained("uploading"):
            commit = self._api.upload_folder(
                repo_id=self.repo,
                folder_path=folder,
                commit_message=title,
                parent_commit=parent,
                delete_patterns=stale or None,
            )
        return str(commit.oid)

    def tag(self, tag: str, commit: str) -> None:
        """Give ``commit`` the tag."""
        with self._explained(f"setting the tag {tag}"):
            self._api.create_tag(self.repo, tag=tag, revision=commit)

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except PublishError:
            raise
        except Exception as error:
            cause = _cause(error)
            if not _is_of_the_network(cause):
                raise
            raise PublishError(f"{self.repo} on {self.endpoint}: {doing} failed: {self._reason(cause)}.") from error

    def _reason(self, error: Exception) -> str:
        if isinstance(error, GatedRepoError):
            return "its files are gated and this account is not on the list; ask its owner for access"
        if isinstance(error, RepositoryNotFoundError):
            return "there is no such repository, or the token may not see it; check the namespace and the token"
        if isinstance(error, RevisionNotFoundError):
            return f"a commit that was there is gone; somebody changed the repository: {_AGAIN}"
        if isinstance(error, LocalTokenNotFoundError):
            return "there is no token; set HF_TOKEN to one with the right to write, or run 'hf auth login'"
        if isinstance(error, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set; unset it to publish"
        if isinstance(error, HFValidationError):
            return f"{error}; choose another namespace"
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            return self._answer(error)
        if isinstance(error, ValueError):  # the client's words for metadata that the Hub does not accept
            return " ".join(str(error).split())
        cause = str(error) or type(error).__name__
        return f"the connection failed ({cause}); check the network and the endpoint, then {_AGAIN}"

    def _answer(self, error: HfHubHTTPError) -> str:
        status, said = error.response.status_code, error.response.headers.get("X-Error-Message", "")
        told = f"the Hub answered {status}" + (f" ({said})" if said else "")
        if status == 401:
            return (
                f"{told}: the token is missing or not valid; set HF_TOKEN to one with the right to write, or run "
                "'hf auth login'"
            )
        if status == 403:
            return (
                f"{told}: this token may not write to {self.repo.partition('/')[0]}; choose another namespace or token"
            )
        if status in (409, 412):
            return f"{told}: somebody else is changing the repository at this moment; {_AGAIN}"
        if status == 429:
            wait = error.response.headers.get("Retry-After")
            return f"{told}: too many requests; wait {f'{wait} s' if wait else 'a while'}, then {_AGAIN}"
        if status >= 500:
            return f"{told}; wait a while, then {_AGAIN}"
        return told


def _cause(error: Exception) -> Exception:
    """What a thread of the client's died of, if it was one."""
    cause = error.__cause__
    return _cause(cause) if isinstance(error, RuntimeError) and isinstance(cause, Exception) else error


def _is_of_the_network(error: Exception) -> bool:
    """Whether it is the Hub's or the network's failure: the client's HTTP libraries differ between its versions."""
    libraries = ("httpx", "httpcore", "requests", "urllib3", "hf_xet")
    of_library = any(kind.__module__.startswith(libraries) for kind in type(error).__mro__)
    return of_library or isinstance(error, OSError | ValueError | OfflineModeIsEnabled)


def check_free(remote: Remote, state: State) -> None:
    """Check that the repository holds a bundle or next to nothing.

    Raises:
        PublishError: it holds something else.
    """
    others = [path for path in state.files if path not in _WELCOME_FILES]
    if others and MANIFEST_FILE not in state.files:
        raise PublishError(
            f"{remote.repo} on {remote.endpoint} holds something that is not a ghostzoo model ({others[0]}); "
            "choose another namespace, or empty the repository."
        )


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 -- Git's own

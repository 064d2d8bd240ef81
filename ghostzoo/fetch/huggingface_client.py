"""Access to one repository through ``huggingface_hub``, 1.x or 2.x; each failure becomes one sentence.

The client does not check the hashes of downloads, so each file is checked here against the manifest, and the manifest
against the lock file if the commit is pinned. The client is imported only when a request is made.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from .._utils.hashes import COMMIT, SHA256
from ..bundle.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest
from ..errors import BundleError, FetchError, innermost
from .options import OFFLINE_VARIABLE, FetchOptions, HubModel
from .retry import TRANSIENT_STATUSES, TransientError, parse_retry_after, retry

_TIMEOUT = 10.0
"""Seconds for a response without a body, as in the Hub's client."""
_ATTEMPTS = 4
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)

_T = TypeVar("_T")


class UnreachableError(FetchError):
    """The Hub did not respond, or not usefully; its last response may still be valid."""


class Hub:
    """One repository, accessed through ``huggingface_hub``."""

    def __init__(self, model: HubModel, options: FetchOptions) -> None:
        self.model = model
        self.options = options

    def __str__(self) -> str:
        return f"{self.model} at {self.options.hub_endpoint}"

    def commit(self) -> str:
        """Request the commit of the revision."""
        from huggingface_hub import HfApi, hf_hub_download

        if self.options.is_offline:
            note = self._ask(lambda: hf_hub_download(**self._file(MANIFEST_FILE, self.model.revision)))
            return Path(note).parent.name
        api = HfApi(self.options.hub_endpoint, token=self.options.token, library_name="ghostzoo")
        info = self._ask(lambda: api.model_info(self.model.repo, revision=self.model.revision, timeout=_TIMEOUT))
        if not COMMIT.fullmatch(info.sha or ""):
            raise FetchError(f"{self} does not say which commit it is; is this a Hub?")
        return str(info.sha)

    def save(self, folder: Path, commit: str, manifest_sha256: str | None) -> None:
        """Download the manifest and all files that it lists to ``folder``, and check each file's size and hash.

        Raises:
            BundleError: the manifest is not the pinned one or lists a path outside the folder, or a file does not match
                it.
            FetchError: the Hub does not deliver a file.
            OSError: the folder cannot be written.
        """
        folder.mkdir()
        report = partial(self.options.report, self.model.repo)
        file = self._save(folder, MANIFEST_FILE, commit, MAX_MANIFEST_BYTES, lambda _: None)
        listing = file.read_bytes()
        if manifest_sha256 not in (None, hashlib.sha256(listing).hexdigest()):
            raise BundleError(f"{MANIFEST_FILE} is not the published one: its SHA-256 is not {manifest_sha256}.")
        files = Manifest.from_json(listing).files
        done, total = 0, sum(record.size for record in files.values())
        report(done, total)
        for name, record in files.items():
            self._save(folder, name, commit, record.size, partial(_advance, report, done, total))
            done += record.size
            report(done, total)

    def save_large(self, name: str, folder: Path, max_bytes: int, title: str) -> tuple[str, Path]:
        """Download a file that is too large for Git, and check it against the SHA-256 that the Hub states of it.

        Args:
            name: the file in the repository.
            folder: where to write it.
            max_bytes: larger ones are refused.
            title: what the progress is of.

        Returns:
            The commit, and the file.

        Raises:
            FetchError: the Hub does not deliver it, states no hash of it, or delivers another one.
            OSError: it cannot be written.
        """
        from huggingface_hub import HfApi, hf_hub_download

        api = HfApi(self.options.hub_endpoint, token=self.options.token, library_name="ghostzoo")
        repo, revision = self.model.repo, self.model.revision
        info = self._ask(lambda: api.model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT))
        stated = next((file.lfs for file in info.siblings or () if file.rfilename == name), None)
        if not COMMIT.fullmatch(info.sha or "") or stated is None or not SHA256.fullmatch(stated.sha256):
            raise FetchError(f"{self} states no commit and SHA-256 of {name}, so nothing is fetched; is this a Hub?")
        if stated.size > max_bytes:
            raise FetchError(f"{self} has {stated.size} bytes in {name}, more than the {max_bytes} that are read.")
        report = partial(self.options.report, title)
        report(0, stated.size)
        file = self._ask(
            lambda: hf_hub_download(
                **self._file(name, str(info.sha)),
                local_dir=folder,
                cache_dir=folder / ".cache",  # not the client's own cache: its contents are unchecked
                tqdm_class=_silent_bar(partial(_advance, report, 0, stated.size)),
            )
        )
        with Path(file).open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        if sha256 != stated.sha256:
            raise FetchError(
                f"{self} delivers {name} with SHA-256 {sha256}, but states {stated.sha256}; nothing of it was kept. "
                "Try again, without a proxy or mirror if there is one."
            )
        return str(info.sha), Path(file)

    def _save(self, folder: Path, name: str, commit: str, max_bytes: int, advance: Callable[[int], None]) -> Path:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        target = folder / name
        if self.options.is_offline:
            found = self._ask(lambda: hf_hub_download(**self._file(name, commit)))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, target)
            return target
        url = hf_hub_url(self.model.repo, name, revision=commit, endpoint=self.options.hub_endpoint)
        asked: dict[str, Any] = {"token": self.options.token, "endpoint": self.options.hub_endpoint}
        facts = self._ask(lambda: get_hf_file_metadata(url, timeout=_TIMEOUT, **asked))
        if facts.size is not None and facts.size > max_bytes:
            raise BundleError(f"{name} has {facts.size} bytes, more than the {max_bytes} expected.")
        self._ask(
            lambda: hf_hub_download(
                **self._file(name, commit),
                local_dir=folder,
                cache_dir=folder / ".cache",  # not the client's own cache: its contents are unchecked
                tqdm_class=_silent_bar(advance),
            )
        )
        return target

    def _file(self, name: str, revision: str) -> dict[str, Any]:
        return {
            "repo_id": self.model.repo,
            "filename": name,
            "revision": revision,
            "endpoint": self.options.hub_endpoint,
            "token": self.options.token,
            "local_files_only": self.options.is_offline,
            "etag_timeout": _TIMEOUT,
            "library_name": "ghostzoo",
        }

    def _ask(self, request: Callable[[], _T]) -> _T:
        """Return what the client returns; its errors become one sentence each, and transient ones are retried."""

        def attempt() -> _T:
            try:
                return request()
            except Exception as error:  # the client's HTTP libraries raise their own, which cannot be imported here
                raise self._explain(error) from error

        try:
            return retry(attempt, str(self.model), _ATTEMPTS)
        except TransientError as error:
            raise UnreachableError(f"{self} cannot be fetched: {error}.") from error

    def _explain(self, error: Exception) -> Exception:
        from huggingface_hub import errors

        page = f"{self.options.hub_endpoint}/{self.model.repo}"
        answers: tuple[tuple[type[Exception], str], ...] = (
            (errors.OfflineModeIsEnabled, f"cannot be fetched: {OFFLINE_VARIABLE} is set; unset it to allow requests."),
            (
                errors.LocalEntryNotFoundError,
                "is not on this machine and requests are off; fetch it with 'ghostzoo pull' while online.",
            ),
            (
                errors.GatedRepoError,
                f"asks for permission; get it at {page}, then log in with 'hf auth login' or pass token=.",
            ),
            (
                errors.RepositoryNotFoundError,
                "does not exist or is private; check the name, or log in with 'hf auth login' or pass token=.",
            ),
            (errors.RevisionNotFoundError, "has no such revision; check the branch, tag or commit."),
            (
                errors.EntryNotFoundError,
                f"is not a ghostzoo model, or is incomplete: {_last_line(error)}; name another repository.",
            ),
            (errors.HFValidationError, f"is not the name of a repository: {_last_line(error)}"),
        )
        if self.options.is_offline or not isinstance(error, errors.LocalEntryNotFoundError):
            for kind, answer in answers:
                if isinstance(error, kind):
                    return FetchError(f"{self} {answer}")
        response = getattr(_with_response(error), "response", None)
        if response is not None:
            return self._explain_status(response)
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return error
        import ssl  # loaded by now; not imported for local models

        cause = innermost(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return FetchError(
                f"{self} cannot be fetched: its certificate is not trusted ({cause.verify_message}); name the "
                "authority's file in SSL_CERT_FILE if you trust it."
            )
        return TransientError(f"the connection failed ({_last_line(cause)})")

    def _explain_status(self, response: Any) -> Exception:
        status = response.status_code
        reason = response.headers.get("X-Error-Message") or getattr(response, "reason_phrase", "")
        if status in TRANSIENT_STATUSES:
            wait = parse_retry_after(response.headers.get("Retry-After"))
            return TransientError(f"it answered {status} {reason}".strip(), wait)
        advice = "check your token (token=, HF_TOKEN, 'hf auth login')" if status in (401, 403) else "try again later"
        return FetchError(f"{self} cannot be fetched: it answered {status} {reason}; {advice}.")


def _silent_bar(advance: Callable[[int], None]) -> Any:
    """Return a progress bar class for the Hub's client that only calls ``advance`` with the bytes so far."""

    class Bar:
        def __init__(self, *_: Any, initial: int = 0, total: int | None = None, **__: Any) -> None:
            self.n, self.total = initial, total

        def update(self, count: float | None = 1) -> None:
            self.n += int(count or 0)
            advance(self.n)

        def close(self) -> None:
            """Do nothing."""

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_, **__: None  # everything else that the client calls is for display

    return Bar


def _advance(report: Callable[[int, int | None], None], before: int, total: int, count: int) -> None:
    report(before + count, total)


def _with_response(error: BaseException | None) -> BaseException | None:
    """Return the error in the chain that has the server's response, if any."""
    while error is not None and getattr(error, "response", None) is None:
        error = error.__cause__ or error.__context__
    return error


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")

"""Options and environment variables that say where models come from."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from .._utils.cache import cache_folder
from .._utils.urls import is_url, why_no_path
from ..errors import OptionError

MODELS_VARIABLE = "GHOSTZOO_MODELS"
"""Environment variable: folders with bundles by name, separated as in ``PATH``."""
NAMESPACE_VARIABLE = "GHOSTZOO_HUB_NAMESPACE"
"""Environment variable: the Hub user or organisation in whose repositories models are looked for by name."""
WEIGHTS_VARIABLE = "GHOSTZOO_WEIGHTS_URL"
"""Environment variable: a mirror of the official weights: a URL template with ``{name}``, a URL prefix or a folder."""
ENDPOINT_VARIABLE = "HF_ENDPOINT"
OFFLINE_VARIABLE = "HF_HUB_OFFLINE"

HUB_SCHEME = "hf://"
"""Prefix of ``owner/name``: a Hub repository, even if there is a folder of this name."""
CATALOG_SCHEME = "zoo://"
"""Prefix of a name: the catalog's model, even if there is a folder of this name."""

Progress = Callable[[str, int, int | None], object]
"""Called with a download's title, the bytes so far, and the total if the server gives it."""

DEFAULT_ENDPOINT = "https://huggingface.co"
_KINDS: dict[str, tuple[type, ...]] = {
    "revision": (str,),
    "cache_dir": (str, PathLike),
    "offline": (bool,),
    "endpoint": (str,),
    "token": (str, bool),
}
_REFERENCE = re.compile(r"([A-Za-z0-9][\w.-]{0,95})/([A-Za-z0-9][\w.-]{0,95})(?:@(\S+))?", re.ASCII)
_TRUE = ("1", "on", "yes", "true")


@dataclass(frozen=True)
class FetchOptions:
    """Options of ``ghostzoo.load`` that say where a model comes from; ``None`` means the environment's setting."""

    revision: str | None = None
    """Branch, tag or commit of the Hub repository."""
    cache_dir: str | PathLike[str] | None = None
    """Folder for fetched models; by default ``models`` in ghostzoo's cache folder."""
    offline: bool | None = None
    """Make no requests; ``HF_HUB_OFFLINE`` by default."""
    endpoint: str | None = None
    """Address of the Hub; by default ``HF_ENDPOINT`` or https://huggingface.co."""
    token: str | bool | None = field(default=None, repr=False)
    """The Hub token; ``None`` uses that of ``HF_TOKEN`` or ``hf auth login``, ``False`` none."""

    progress: Progress | None = None
    """Called with the progress of downloads; not pickled."""

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kinds):
                raise OptionError(f"{name} must be {' or '.join(kind.__name__ for kind in kinds)}, not {value!r}.")
        if self.progress is not None and not callable(self.progress):
            raise OptionError(f"progress must be a function, not {self.progress!r}.")
        if self.cache_dir is not None:
            _check_folder(self.cache_dir)
        if self.revision is not None and not self.revision.strip():
            raise OptionError("revision must name a branch, a tag or a commit of the Hub repository.")
        if not is_url(self.hub_endpoint):
            raise OptionError(
                f"The Hub's endpoint must begin with http:// or https://, not {self.hub_endpoint!r}; "
                f"see endpoint= and {ENDPOINT_VARIABLE}."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "progress": None}

    def report(self, title: str, done: int, total: int | None) -> None:
        """Call ``progress``, if there is one."""
        if self.progress is not None:
            self.progress(title, done, total)

    def refuse_revision(self, model: str | PathLike[str]) -> None:
        """Raise ``OptionError`` if a revision is given, since ``model`` is not from the Hub."""
        if self.revision:
            raise OptionError(f"revision={self.revision!r} is for a repository of the Hub, and {model} is not one.")

    @property
    def is_offline(self) -> bool:
        """Whether requests are forbidden."""
        if self.offline is not None:
            return self.offline
        return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() in _TRUE

    @property
    def hub_endpoint(self) -> str:
        """The Hub's address, without a slash at its end."""
        if self.endpoint is not None:
            return self.endpoint.rstrip("/")
        return (os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT).rstrip("/")

    @property
    def models_cache(self) -> Path:
        """The folder for fetched models, which may not exist yet."""
        return Path(self.cache_dir).expanduser() if self.cache_dir is not None else cache_folder() / "models"


def _check_folder(cache_dir: str | PathLike[str]) -> None:
    """Refuse what can be no folder, before anything is looked for in it."""
    text = os.fspath(cache_dir)
    reason = why_no_path(text, "the path of a folder on this machine")
    if reason is not None:
        raise OptionError(f"cache_dir is {reason}.")
    try:
        is_file = os.path.isfile(Path(text).expanduser())  # noqa: PTH113  # whatever else is wrong is found later
    except RuntimeError as error:
        raise OptionError(f"cache_dir is {text}, and there is no such home folder; give a path without ~.") from error
    if is_file:
        raise OptionError(f"cache_dir must be a folder, and {text} is a file.")


def hub_namespace() -> str | None:
    """Return the namespace in ``GHOSTZOO_HUB_NAMESPACE``, if it is set."""
    return os.environ.get(NAMESPACE_VARIABLE, "").strip().strip("/") or None


def model_folders() -> Iterator[Path]:
    """Yield the folders in ``GHOSTZOO_MODELS``, in order."""
    for entry in os.environ.get(MODELS_VARIABLE, "").split(os.pathsep):
        if entry.strip():
            yield Path(os.path.expanduser(entry.strip()))  # noqa: PTH111  # where ~ means nothing, it is no error


@dataclass(frozen=True)
class HubModel:
    """A repository and its revision."""

    repo: str
    """``owner/name``."""
    revision: str = "main"
    """Branch, tag or commit."""

    def __str__(self) -> str:
        return f"{HUB_SCHEME}{self.repo}@{self.revision}"


def parse_reference(text: str, options: FetchOptions) -> HubModel | None:
    """Read ``hf://owner/name[@revision]`` or ``owner/name[@revision]``; ``None`` if it is neither.

    Raises:
        OptionError: ``hf://`` is not followed by a repository, or two revisions are given.
    """
    match = _REFERENCE.fullmatch(text.removeprefix(HUB_SCHEME))
    if match is None or any("--" in part or ".." in part for part in match.group(1, 2)):
        if text.startswith(HUB_SCHEME):
            raise OptionError(f"{text!r} names no repository of the Hub; write {HUB_SCHEME}owner/name[@revision].")
        return None
    if match[3] and options.revision and match[3] != options.revision:
        raise OptionError(f"{text!r} and revision={options.revision!r} name two revisions; give one.")
    return HubModel(f"{match[1]}/{match[2]}", match[3] or options.revision or "main")

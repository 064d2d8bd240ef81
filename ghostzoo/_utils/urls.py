"""Paths and URLs as callers give them."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from ..errors import OptionError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def as_path(value: object, name: str) -> Path:
    """Return what a caller gave as a path.

    Raises:
        OptionError: it is none; the message tells the option's ``name``.
    """
    if not isinstance(value, str | PathLike):
        raise OptionError(f"{name} must be a path, not {value!r}.")
    return Path(value)


def is_url(source: Any) -> bool:
    """Whether ``source`` is a string that begins as an ``http`` or ``https`` URL does."""
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


def scheme_of(source: Any) -> str | None:
    """Return the scheme of a string that begins as a URL does, in lower case; ``None`` for anything else."""
    match = _SCHEME.match(source) if isinstance(source, str) else None
    return match[1].lower() if match else None


def why_no_path(text: str, wanted: str = "the path of a file on this machine") -> str | None:
    """Say why ``text`` cannot be a path (it is empty, or a URL) and to give what is ``wanted``; ``None`` if it can."""
    if not text:
        return f"an empty name; give {wanted}"
    scheme = scheme_of(text)
    if scheme is None:
        return None
    if scheme == "file":
        return f"a file: URL; give the path alone, {unquote(urlsplit(text).path) or 'without file://'}"
    return f"a URL that begins with {scheme}://; give {wanted}"


def without_secrets(url: str) -> str:
    """Return ``url`` without user, password, query and fragment, as messages show it."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL after all, so where a password would be in it is unknown too
        return f"<malformed URL of {len(url)} characters>"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

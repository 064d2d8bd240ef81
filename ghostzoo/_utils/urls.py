"""URLs as text."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit


def is_url(source: Any) -> bool:
    """Whether ``source`` is a string that begins as an ``http`` or ``https`` URL does."""
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


def without_secrets(url: str) -> str:
    """Return ``url`` without user, password, query and fragment, as messages show it."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL after all, so where a password would be in it is unknown too
        return f"<malformed URL of {len(url)} characters>"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

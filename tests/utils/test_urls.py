"""URLs as messages show them: without what is secret in them."""

from __future__ import annotations

import pytest

from ghostzoo._utils.urls import is_url, without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.com/a/b.jpg", "https://example.com/a/b.jpg"),
        ("https://me:secret@example.com:8443/a?token=secret#secret", "https://example.com:8443/a"),
        ("http://me:p@ss@example.com", "http://example.com"),
        ("http://[::1]:80/x?secret", "http://[::1]:80/x"),
        ("http://[secret", "<malformed URL of 14 characters>"),
    ],
)
def test_nothing_secret_is_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
    assert "secret" not in without_secrets(url)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("http://a", True),
        ("HTTPS://a", True),
        ("http:/a", False),
        ("ftp://a", False),
        (" http://a", False),
        ("httpx://a", False),
        (b"http://a", False),
        (None, False),
    ],
)
def test_urls_are_told_from_paths(source: object, expected: bool) -> None:
    assert is_url(source) is expected

"""The bundles that come with the package."""

from __future__ import annotations

from pathlib import Path

from .bundle.folder import Bundle

EMBEDDED_FOLDER = Path(__file__).with_name("models")


def open_embedded(name: str) -> Bundle:
    """Open and verify the embedded bundle ``name``."""
    return Bundle.open(EMBEDDED_FOLDER / name, origin="embedded")

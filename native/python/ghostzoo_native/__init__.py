"""The shared library of ghostzoo's native engine, and where it is."""

from __future__ import annotations

import sys
from pathlib import Path

_NAMES = {"win32": "ghostzoo.dll", "darwin": "libghostzoo.dylib"}


def library() -> Path:
    """Return the path of the shared library, whose interface is ``ghostzoo/ghostzoo.h``."""
    return Path(__file__).parent / _NAMES.get(sys.platform, "libghostzoo.so")

"""How hashes are written."""

from __future__ import annotations

import re

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A commit of Git, in full."""
SHA256 = re.compile(r"[0-9a-f]{64}")

"""``data/hub.lock.json``: which commit of which Hub repository holds a catalog model, and the hash of its manifest.

Publishing writes it. The manifest in turn holds the hash of every file, so a repository, a mirror or a proxy that
changes one byte is found out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .._utils.files import write_atomically
from .._utils.hashes import COMMIT, SHA256
from ..bundle.manifest import parse_json_object
from ..errors import BundleError

LOCK_FILE = Path(__file__).parents[1] / "data" / "hub.lock.json"

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Pin:
    """Where a model was published, and as what."""

    repo: str
    """``owner/name``."""
    commit: str
    """40 hexadecimal digits."""
    manifest_sha256: str
    """Of the file ``ghostzoo.json``; 64 hexadecimal digits."""

    def __post_init__(self) -> None:
        for pattern, value in ((_REPOSITORY, self.repo), (COMMIT, self.commit), (SHA256, self.manifest_sha256)):
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise BundleError(f"{value!r} is not valid in {LOCK_FILE.name}; publish the model again.")


def read_lock(path: Path | None = None) -> dict[str, Pin]:
    """Return the pins by model name; ``path`` is the package's own lock file by default.

    Raises:
        BundleError: the file is damaged.
    """
    path = path or LOCK_FILE
    try:
        entries = parse_json_object(path.read_bytes(), path.name)
        return {name: Pin(entry["repo"], entry["commit"], entry["manifest_sha256"]) for name, entry in entries.items()}
    except (OSError, KeyError, TypeError) as error:
        raise BundleError(f"{path} cannot be read ({error!r}); install ghostzoo again.") from error


def write_lock(pins: Mapping[str, Pin], path: Path | None = None) -> None:
    """Write the pins, sorted by name; raises ``OSError`` where the file cannot be written."""
    content = {name: asdict(pins[name]) for name in sorted(pins)}
    write_atomically(path or LOCK_FILE, (json.dumps(content, indent=2) + "\n").encode())


def find_pin(name: str) -> Pin | None:
    """Return the pin of the catalog model ``name``, or ``None`` if it was never published."""
    return read_lock().get(name)


def find_published(repo: str, commit: str) -> Pin | None:
    """Return the pin of this very commit of this repository, if it is one that was published."""
    return next((pin for pin in read_lock().values() if (pin.repo, pin.commit) == (repo, commit)), None)

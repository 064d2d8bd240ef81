"""``data/hub.lock.json``: the Hub repository and commit of each catalog model, and the hash of its manifest.

It is written by publishing. The manifest contains the hash of every file, so any change by a repository, mirror or
proxy is detected.
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
from ..errors import BundleError, OptionError
from .options import NAMESPACE_VARIABLE, FetchOptions, HubModel, hub_namespace, parse_reference

LOCK_FILE = Path(__file__).parents[1] / "data" / "hub.lock.json"

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Pin:
    """Where a model was published, and the hash of its manifest."""

    repo: str
    """``owner/name``."""
    commit: str
    """40 hexadecimal digits."""
    manifest_sha256: str
    """The hash of ``ghostzoo.json``; 64 hexadecimal digits."""

    def __post_init__(self) -> None:
        for pattern, value in ((_REPOSITORY, self.repo), (COMMIT, self.commit), (SHA256, self.manifest_sha256)):
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise BundleError(f"{value!r} is not valid in {LOCK_FILE.name}; publish the model again.")


def read_lock(path: Path | None = None) -> dict[str, Pin]:
    """Return the pins by model name; ``path`` defaults to the package's lock file.

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
    """Write the pins, sorted by name; raises ``OSError`` if the file cannot be written."""
    content = {name: asdict(pins[name]) for name in sorted(pins)}
    write_atomically(path or LOCK_FILE, (json.dumps(content, indent=2) + "\n").encode())


def find_pin(name: str) -> Pin | None:
    """Return the pin of the catalog model ``name``, or ``None`` if it was never published."""
    return read_lock().get(name)


def find_published(repo: str, commit: str) -> Pin | None:
    """Return the pin of this commit of this repository, if it was published."""
    return next((pin for pin in read_lock().values() if (pin.repo, pin.commit) == (repo, commit)), None)


def published_as(name: str, options: FetchOptions) -> HubModel | None:
    """Return where the model ``name`` is on the Hub: in ``GHOSTZOO_HUB_NAMESPACE``, or as given by the lock file.

    Raises:
        OptionError: ``GHOSTZOO_HUB_NAMESPACE`` is not a valid name of a user or an organisation.
    """
    pin = find_pin(name)
    namespace = hub_namespace()
    if namespace and not (pin and pin.repo == f"{namespace}/{name}"):
        model = parse_reference(f"{namespace}/{name}", options)
        if model is None:
            raise OptionError(f"{NAMESPACE_VARIABLE} is {namespace!r}, which names no user or organisation of the Hub.")
        return model
    return HubModel(pin.repo, options.revision or pin.commit) if pin else None

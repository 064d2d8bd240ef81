"""Adds files to an existing bundle; if the process is killed half-way, the bundle stays valid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._utils.cache import cache_key, locked
from .._utils.files import write_atomically
from ..errors import BundleError
from .folder import Bundle
from .manifest import MANIFEST_FILE, FileRecord, Manifest


def add_files(
    path: Path,
    contents: Mapping[str, bytes],
    *,
    created_by: Mapping[str, str],
    section: str,
    facts: Mapping[str, Any],
) -> Bundle:
    """Add or replace files in the bundle at ``path``; only one process at a time may do so.

    Args:
        path: the bundle's folder. A folder with symbolic links, such as one in the Hub's cache, is refused.
        contents: the content of optional files, by path relative to the folder.
        created_by: versions to add to the manifest's.
        section: the section of the manifest's validation report to extend.
        facts: entries to add to the section; they replace those of the same name.

    Returns:
        The bundle, read and verified again.

    Raises:
        BundleError: it is not a bundle, or cannot be written; it is then unchanged, or lacks the files to be replaced.
    """
    with locked(f"locks/{cache_key(str(path.resolve()))}"):
        old = Bundle.open(path).manifest
        linked = [name for name in (MANIFEST_FILE, *old.files) if (path / name).is_symlink()]
        if linked:
            raise BundleError(
                f"Bundle {path}: {linked[0]} is a link, so the folder belongs to a cache and is left as it is; "
                "write to a folder of your own."
            )
        kept = {name: record for name, record in old.files.items() if name not in contents}
        added = {name: FileRecord(hashlib.sha256(data).hexdigest(), len(data)) for name, data in contents.items()}
        new = replace(
            old,
            files=kept | added,
            created_by={**old.created_by, **created_by},
            validation={**old.validation, section: {**old.validation.get(section, {}), **facts}},
        )
        manifest = new.to_json()
        Manifest.from_json(manifest)  # refuses paths outside the folder before anything is written
        try:
            if len(kept) < len(old.files):  # the manifest does not list files while they change
                write_atomically(path / MANIFEST_FILE, replace(old, files=kept).to_json())
            for name, data in contents.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path / name, data)
            write_atomically(path / MANIFEST_FILE, manifest)
        except OSError as error:
            raise BundleError(f"Cannot write {path}: {error.strerror or error}; check its permissions.") from error
        return Bundle.open(path)

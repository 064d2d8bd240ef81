"""Writes bundles, and adds files to them; if the process is killed half-way, what was there stays valid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from .._utils.cache import cache_key, locked
from .._utils.files import recover, replaced, write_atomically
from ..calibration import Calibration
from ..errors import BundleError
from .folder import Bundle
from .hub_configs import CONFIG_FILE, ModelConfig
from .manifest import MANIFEST_FILE, FileRecord, Manifest


def write_bundle(
    out: str | PathLike[str],
    *,
    name: str,
    contents: Mapping[str, bytes],
    weights: Mapping[str, Any],
    created_by: Mapping[str, str],
    validation: Mapping[str, Any],
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle to a temporary folder next to ``out``, verify it there, and move it into place.

    Args:
        out: the folder to create. It must not exist or be empty, unless ``overwrite``.
        name: the model's name.
        contents: the content of all files but the manifest, by path relative to the folder. Whether it is a multi-label
            model is taken from ``config.json``.
        weights, created_by, validation: as in the manifest.
        overwrite: replace an existing bundle, but no other folder.

    Raises:
        BundleError: ``out`` exists, or cannot be written.
    """
    out = Path(out)
    check_target(out, overwrite)
    files = {file: FileRecord(hashlib.sha256(data).hexdigest(), len(data)) for file, data in contents.items()}
    multi_label = CONFIG_FILE in contents and ModelConfig.from_json(contents[CONFIG_FILE]).multi_label
    manifest = Manifest(name, weights, files, created_by, validation, multi_label).to_json()
    Manifest.from_json(manifest)  # refuses a path that leads out before anything is written to it
    try:
        with replaced(out) as folder:
            for file, data in {**contents, MANIFEST_FILE: manifest}.items():
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            Bundle.open(folder)
            _check_free(out, overwrite)
    except OSError as error:
        raise BundleError(f"Cannot write {out}: {error.strerror or error}; nothing was changed.") from error
    return Bundle.open(out)


def check_target(out: Path, overwrite: bool) -> None:
    """Check that a bundle may be written to ``out``, after removing what killed writers left next to it.

    Raises:
        BundleError: ``out`` exists and may not be replaced, or is the working directory or a parent of it.
    """
    if out.name in ("", ".."):
        raise BundleError(f"{str(out)!r} cannot name a new folder; name the folder to create.")
    recover(out.parent)
    _check_free(out, overwrite)


def _check_free(out: Path, overwrite: bool) -> None:
    try:
        if not (out.exists() or out.is_symlink()) or (out.is_dir() and not any(out.iterdir())):
            return
        is_bundle = out.is_dir() and (out / MANIFEST_FILE).is_file()
    except OSError as error:
        raise BundleError(f"Cannot write {out}: {error.strerror or error}; choose another folder.") from error
    if not is_bundle:
        raise BundleError(f"{out} exists and is not a bundle; choose another folder.")
    if not overwrite:
        raise BundleError(f"{out} exists; choose another folder, or ask to overwrite it.")


def add_files(
    path: Path,
    contents: Mapping[str, bytes],
    *,
    created_by: Mapping[str, str],
    section: str,
    facts: Mapping[str, Any],
    calibration: Calibration | None = None,
) -> Bundle:
    """Add or replace files in the bundle at ``path``; only one process at a time may do so.

    Args:
        path: the bundle's folder. A folder with symbolic links, such as one in the Hub's cache, is refused.
        contents: the content of optional files, by path relative to the folder.
        created_by: versions to add to the manifest's.
        section: the section of the manifest's validation report to extend.
        facts: entries to add to the section; they replace those of the same name.
        calibration: what is to replace the bundle's, if anything.

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
            calibration=old.calibration if calibration is None else calibration,
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

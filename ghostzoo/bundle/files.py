"""The files of a bundle, each read once and held against the manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import BundleError
from .manifest import MANIFEST_FILE, FileRecord


def read_verified(root: Path, name: str, record: FileRecord) -> bytes:
    """Return the content of ``name`` below ``root``, held against its record in the manifest.

    Raises:
        BundleError: it is another file, or ``read_file`` cannot read it.
    """
    data = read_file(root, name, record.size)
    if len(data) != record.size:
        raise BundleError(
            f"{name} has {len(data)} bytes, the manifest says {record.size}; download or convert the model again."
        )
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise BundleError(
            f"{name} was changed: its SHA-256 is not the manifest's; download or convert the model again."
        )
    return data


def read_file(root: Path, name: str, max_bytes: int) -> bytes:
    """Return the content of ``name`` below ``root``.

    Raises:
        BundleError: it is missing, too large, unreadable, or a link out of the folder.
    """
    file = root / name
    try:
        if not root.is_dir():
            raise BundleError("there is no such folder; check the path.")
        resolved = file.resolve(strict=True)
        if not resolved.is_relative_to(root.resolve(strict=True)):
            raise BundleError(f"{name} is a link out of the folder; do not use this bundle.")
        if not resolved.is_file():
            raise BundleError(f"{name} is not a regular file; download or convert the model again.")
        with resolved.open("rb") as stream:
            # read() allocates what it is asked for, so the manifest's size is not used unchecked.
            data = stream.read(min(max_bytes, resolved.stat().st_size) + 1)
    except FileNotFoundError:
        if name == MANIFEST_FILE:
            raise BundleError(f"it holds no {MANIFEST_FILE}, so it is not a ghostzoo model; check the path.") from None
        raise BundleError(f"{name} is missing; download or convert the model again.") from None
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise BundleError(f"{name} cannot be read: {reason}; check its permissions.") from error
    if len(data) > max_bytes:
        raise BundleError(f"{name} has more than {max_bytes} bytes; download or convert the model again.")
    return data

"""``ghostzoo.json``: what a bundle is, where its weights come from, and the size and SHA-256 of every file.

Each file is read once and held against it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .._utils.files import is_portable
from .._utils.hashes import SHA256
from ..calibration import Calibration
from ..errors import BundleError, BundleVersionError

MANIFEST_FILE = "ghostzoo.json"
FORMAT_VERSION = 3
"""The newest; a bundle has the oldest that says all of it, so that older versions of ghostzoo read what they can use.
Format 2 has ``multi_label``, format 3 ``calibration``."""
MAX_MANIFEST_BYTES = 4 * 2**20
MAX_JSON_BYTES = 64 * 2**20
"""Enough for a million classes; parsed, JSON takes up to twenty times its size."""
MAX_BUNDLE_BYTES = 512 * 2**20
"""All files of a bundle together; the largest catalog model has about 30 MB per precision."""
MAX_FILES = 256

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_MAX_PATH = 240


@dataclass(frozen=True)
class FileRecord:
    """Size and hash of one file."""

    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Manifest:
    """The parsed manifest."""

    name: str
    weights: Mapping[str, Any]
    """``file_name``, ``sha256``, ``size`` of the weight file and, for catalog models, its official ``source_url``."""
    files: Mapping[str, FileRecord] = field(repr=False)
    """All files but the manifest, by path relative to the folder, with forward slashes."""
    created_by: Mapping[str, str]
    """Versions of ghostzoo and of the libraries that wrote the bundle."""
    validation: Mapping[str, Any] = field(repr=False)
    """What was compared, and the results."""
    multi_label: bool = False
    """Whether scores are sigmoids and a threshold decides, instead of a softmax. ``config.json`` says so, too; here it
    keeps versions of ghostzoo away that know softmax only."""
    calibration: Calibration | None = field(default=None, repr=False)
    """What scores are made of besides the logits, once ``ghostzoo eval --calibrate`` has measured it."""

    def to_json(self) -> bytes:
        """Serialise; the same manifest gives the same bytes."""
        content = {
            "format_version": 3 if self.calibration is not None else 2 if self.multi_label else 1,
            "name": self.name,
            **({"multi_label": True} if self.multi_label else {}),
            **({"calibration": self.calibration.to_dict()} if self.calibration is not None else {}),
            "weights": dict(self.weights),
            "files": {name: {"sha256": file.sha256, "size": file.size} for name, file in sorted(self.files.items())},
            "created_by": dict(self.created_by),
            "validation": dict(self.validation),
        }
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Parse and check a manifest.

        Raises:
            BundleVersionError: it was written in a newer format.
            BundleError: it is damaged, or lists a file that a bundle may not contain.
        """
        content = parse_json_object(data, MANIFEST_FILE)
        version = content.get("format_version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise BundleError(f"{MANIFEST_FILE} has no format_version; download or convert the model again.")
        if version > FORMAT_VERSION:
            raise BundleVersionError(
                f"the bundle has format version {str(version)[:40]}, this ghostzoo reads up to {FORMAT_VERSION}; "
                "upgrade with 'pip install --upgrade ghostzoo'."
            )
        name = content.get("name")
        if not isinstance(name, str):
            raise BundleError(f"{MANIFEST_FILE} has no name; download or convert the model again.")
        check_model_name(name)
        multi_label = content.get("multi_label", False)
        if not isinstance(multi_label, bool):
            raise BundleError(
                f"{MANIFEST_FILE} has multi_label = {str(multi_label)[:40]!r}, which is neither true nor false; "
                "download or convert the model again."
            )
        return cls(
            name=name,
            weights=_mapping(content, "weights"),
            files=_file_records(_mapping(content, "files")),
            created_by={str(key): str(value) for key, value in _mapping(content, "created_by").items()},
            validation=_mapping(content, "validation"),
            multi_label=multi_label,
            calibration=_calibration(content),
        )


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


def check_model_name(name: str) -> None:
    """Check a model's name, which is used for folders and repositories.

    Raises:
        BundleError: it has characters other than letters, digits, dots, dashes and underscores, is too long, or is one
            that Windows cannot have.
    """
    if not _NAME.fullmatch(name) or not is_portable(name):
        raise BundleError(
            f"{name[:120]!r} cannot name a model; use up to 96 letters, digits, '.', '-' and '_', "
            "the first a letter or digit, the last no dot, and no device of Windows such as 'con'."
        )


def parse_json_object(data: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        BundleError: it is not a JSON object; ``name`` is the file's name in the message.
    """
    try:
        if len(data) > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
        content = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name} is not valid JSON ({error}); download or convert the model again.") from error
    if not isinstance(content, dict):
        raise BundleError(f"{name} is not a JSON object; download or convert the model again.")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return content


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise BundleError(f"{MANIFEST_FILE} has no object {key!r}; download or convert the model again.")
    return value


def _calibration(content: Mapping[str, Any]) -> Calibration | None:
    if "calibration" not in content:
        return None
    try:
        return Calibration.from_dict(content["calibration"])
    except ValueError as error:
        raise BundleError(
            f"{MANIFEST_FILE} has a calibration that cannot be used: {error}; calibrate the model again."
        ) from None


def _file_records(entries: Mapping[str, Any]) -> dict[str, FileRecord]:
    if len(entries) > MAX_FILES:
        raise BundleError(f"{MANIFEST_FILE} lists {len(entries)} files; a bundle has at most {MAX_FILES}.")
    records = {}
    for name, entry in entries.items():
        _check_path(name)
        sha256, size = (entry.get("sha256"), entry.get("size")) if isinstance(entry, dict) else (None, None)
        if not (isinstance(sha256, str) and SHA256.fullmatch(sha256)):
            raise BundleError(f"{MANIFEST_FILE} gives no SHA-256 for {name}; download or convert the model again.")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_BUNDLE_BYTES:
            raise BundleError(
                f"{MANIFEST_FILE} gives {name} the impossible size {str(size)[:40]!a}; do not use this bundle."
            )
        records[name] = FileRecord(sha256, size)
    if len({name.casefold() for name in records}) < len(records):
        raise BundleError(
            f"{MANIFEST_FILE} has two files whose names differ in capitals only, which Windows and macOS take for one; "
            "do not use this bundle."
        )
    total = sum(record.size for record in records.values())
    if total > MAX_BUNDLE_BYTES:
        raise BundleError(f"{MANIFEST_FILE} lists {total} bytes of files; a bundle has at most {MAX_BUNDLE_BYTES}.")
    return records


def _check_path(name: str) -> None:
    parts = name.split("/")
    if (
        not all(part and is_portable(part) for part in parts)  # neither "." nor ".."
        or not name.isprintable()  # control characters and lone surrogates, which file systems cannot encode
        or len(name) > _MAX_PATH
        or PurePosixPath(name).is_absolute()
    ):
        raise BundleError(
            f"{MANIFEST_FILE} names {name[:80]!a}, which is not a path inside the bundle; do not use this bundle."
        )

"""Results as parts: each appears whole or not at all, and a list says which are finished."""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._utils.urls import scheme_of, without_secrets
from ..errors import InputError
from .columns import Row, column_of
from .storage import LocalFolder, RemoteFolder, errors_of_writing

LIST_FILE = "_ghostzoo.json"
"""Readers of parquet folders pass over names that begin with an underscore."""
FORMATS = {".parquet": "parquet", ".jsonl": "jsonl"}
_PART = re.compile(r"part-\d{6}\.(parquet|jsonl)")


class Results:
    """A folder of parts, on a local disk or in a storage that fsspec knows.

    A part is written under its own name in one step, and counts once the list of parts names it; a part that is there
    and not listed is of a run that was killed in between, and is removed.
    """

    def __init__(self, place: str, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Open or make the folder.

        Raises:
            InputError: there are results already and neither ``resume`` nor ``overwrite`` was asked for, they are of
                another model or other options, another process writes there, or it cannot be written to.
        """
        self.place = without_secrets(place)
        suffix = posixpath.splitext(place.rstrip("/"))[1].lower()
        if suffix not in FORMATS:
            raise InputError(f"{self.place} must end in {' or '.join(FORMATS)}, which is the format of the results.")
        self.format = FORMATS[suffix]
        self._folder = LocalFolder(place) if scheme_of(place) in (None, "file") else RemoteFolder(place)
        self._settings = settings
        self._parts: list[dict[str, Any]] = []
        self._begun = False
        self._lock = self._folder.lock(self.place)
        try:
            self._begin(resume, overwrite)
        except BaseException:
            self.close()
            raise

    def _begin(self, resume: bool, overwrite: bool) -> None:
        earlier = self._folder.read(LIST_FILE)
        if earlier is not None and not overwrite:
            content = _parse(earlier, self.place)
            if not resume:
                raise InputError(
                    f"{self.place} has results already; resume goes on with them, overwrite replaces them."
                )
            earlier, now = content["settings"], self._settings
            changed = sorted(key for key in earlier.keys() | now.keys() if earlier.get(key) != now.get(key))
            if changed:
                raise InputError(
                    f"{self.place} was begun with another {' and '.join(changed)}; resume with the same, or take "
                    "another folder."
                )
            self._parts = content["parts"]
        elif earlier is None and self._folder.names() and not overwrite:
            raise InputError(f"{self.place} has files in it that are no results of ghostzoo; take another folder.")
        listed = {part["file"] for part in self._parts}
        for name in self._folder.names():
            if _PART.fullmatch(name) and name not in listed:
                self._folder.remove(name)
        self._write_list()
        self._begun = True

    @property
    def done(self) -> int:
        """Pictures in the finished parts."""
        return sum(part["rows"] for part in self._parts)

    @property
    def failed(self) -> int:
        """Of these, those that could not be read."""
        return sum(part["errors"] for part in self._parts)

    def finished_names(self) -> Names:
        """Return the names of all pictures in the finished parts."""
        digests = []
        for part in self._parts:
            data = self._folder.read(part["file"])
            if data is None or len(data) != part["bytes"]:
                raise InputError(f"{self.place}/{part['file']} is missing or was changed; overwrite starts again.")
            digests.append(Names.digests(_read_names(data, self.format)))
        return Names(digests)

    def write(self, named: Sequence[tuple[str, Row]], facts: dict[str, str]) -> None:
        """Write one part: names with their rows."""
        names, rows = [name for name, _ in named], [row for _, row in named]
        data = _serialise(names, rows, facts, self.format)
        file = f"part-{len(self._parts):06}.{self.format}"
        errors = sum(row.error is not None for row in rows)
        with errors_of_writing(self.place):
            self._folder.write(file, data)
            self._parts.append({"file": file, "rows": len(rows), "errors": errors, "bytes": len(data)})
            self._write_list()

    def close(self) -> None:
        """End the work; where no part was finished, the list goes too, so that a next run begins as this one did."""
        if self._begun and not self._parts:
            with suppress(Exception):  # what went wrong before has been told
                self._folder.remove(LIST_FILE)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _write_list(self) -> None:
        content = {"format": 1, "settings": self._settings, "parts": self._parts}
        with errors_of_writing(self.place):
            self._folder.write(LIST_FILE, (json.dumps(content, indent=1) + "\n").encode())


class Names:
    """A set of names in 16 bytes each, so that millions fit in memory."""

    def __init__(self, digests: Iterable[NDArray[np.void]]) -> None:
        parts = list(digests)
        self._sorted = np.sort(np.concatenate(parts)) if parts else np.empty(0, "S16")

    @staticmethod
    def digests(names: Iterable[str]) -> NDArray[Any]:
        return np.array([_digest(name) for name in names], "S16")

    def __contains__(self, name: str) -> bool:
        digest = np.array(_digest(name), "S16")
        place = int(np.searchsorted(self._sorted, digest))
        return place < len(self._sorted) and bool(self._sorted[place] == digest)

    def __len__(self) -> int:
        return len(self._sorted)


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _serialise(names: Sequence[str], rows: Sequence[Row], facts: dict[str, str], kind: str) -> bytes:
    columns: dict[str, list[Any]] = {"path": list(names), **column_of(rows)}
    embedded = any(row.embedding is not None for row in rows)
    if kind == "jsonl":
        lines = []
        for number, row in enumerate(rows):
            line = {name: values[number] for name, values in columns.items()} | facts
            if embedded:
                line["embedding"] = None if row.embedding is None else row.embedding.tolist()
            lines.append(json.dumps(line, ensure_ascii=False))
        return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
    return _to_parquet(columns, rows, facts)


def _to_parquet(columns: dict[str, list[Any]], rows: Sequence[Row], facts: dict[str, str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns["path"] = [name.encode("utf-8", "backslashreplace").decode() for name in columns["path"]]
    arrays = {
        name: pa.array(values, kind) for (name, values), kind in zip(columns.items(), _types(pa).values(), strict=True)
    }
    for name, value in facts.items():
        arrays[name] = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(rows), np.int32)), pa.array([value]))
    size = next((len(row.embedding) for row in rows if row.embedding is not None), 0)
    if size:
        zeros = np.zeros(size, np.float32)
        flat = np.concatenate([zeros if row.embedding is None else row.embedding for row in rows])
        missing = pa.array([row.embedding is None for row in rows])
        arrays["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), size, mask=missing)
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer, compression="zstd")
    return buffer.getvalue()


def _types(pa: Any) -> dict[str, Any]:
    """Column -> its type."""
    return {
        "path": pa.string(),
        "index": pa.int32(),
        "label": pa.string(),
        "score": pa.float32(),
        "indices": pa.list_(pa.int32()),
        "labels": pa.list_(pa.string()),
        "scores": pa.list_(pa.float32()),
        "error": pa.string(),
    }


def _read_names(data: bytes, kind: str) -> list[str]:
    if kind == "jsonl":
        return [json.loads(line)["path"] for line in data.splitlines()]
    import pyarrow.parquet as pq

    names: list[str] = pq.read_table(io.BytesIO(data), columns=["path"]).column("path").to_pylist()
    return names


def _parse(data: bytes, place: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
        if (
            content["format"] != 1
            or not isinstance(content["parts"], list)
            or not isinstance(content["settings"], dict)
        ):
            raise ValueError("an unknown format")
        for part in content["parts"]:
            if not _PART.fullmatch(part["file"]) or not all(
                isinstance(part[key], int) for key in ("rows", "errors", "bytes")
            ):
                raise ValueError("an impossible part")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place}/{LIST_FILE} is damaged ({error}); overwrite starts again.") from error
    found: dict[str, Any] = content
    return found

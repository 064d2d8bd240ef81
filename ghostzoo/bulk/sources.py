"""Where pictures are: folders, globs, buckets, list files, tar files, columns of tables -> pictures, one by one.

Everything but a local file is reached through fsspec, which knows ``s3://``, ``gs://``, ``hf://``, ``https://`` and
many more; credentials, pages of listings and what is tried again are its affair.
"""

from __future__ import annotations

import glob
import os
import posixpath
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from .._utils.tars import read_headers
from .._utils.urls import scheme_of, without_secrets
from ..errors import GhostZooError, InputError
from ..images.inputs import IMAGE_SUFFIXES
from .columns import Encoded
from .storage import errors_of_reading, open_storage, reason, told

TABLES = (".parquet", ".arrow", ".feather", ".ipc")
LISTS = (".txt", ".lst", ".list")
COLUMNS = ("image", "bytes", "content", "data", "path", "file", "url", "uri")
"""Where a table's pictures are looked for: bytes, paths, or both as Hugging Face's datasets have them."""
_ROWS_AT_ONCE = 64
_AHEAD = 4
"""Pictures that are fetched ahead for each reader."""
_MAX_LINE = 64 * 2**10


@dataclass(frozen=True)
class Item:
    """A picture: its name in the results, and what a classifier can read."""

    name: str
    image: Any
    fetch: Callable[[], bytes] | None = None
    """Reads it from a storage that is worth reading ahead from."""


def find_items(sources: Any, column: str | None, max_bytes: int) -> Iterator[Item]:
    """Yield the pictures of all sources, lazily, in an order that is the same each time.

    Args:
        sources: a path, URL or glob of pictures, folders, ``.tar``, ``.parquet``, ``.arrow`` or list files (``.txt``, a
            path or URL a line); an Arrow table, dataset or record batch reader; or several of these.
        column: the table's column with bytes, paths or URLs; by default the first of ``COLUMNS`` that is there.
        max_bytes: what of one picture is read at most.

    Raises:
        InputError: a source is not there, cannot be listed, or has no pictures; when it is its turn.
    """
    found = False
    for source in sources if isinstance(sources, list | tuple) else [sources]:
        if hasattr(source, "schema"):  # pyarrow's tables, datasets and readers
            items = _of_table("table", source, column, max_bytes)
        elif isinstance(source, str | PathLike):
            items = _of_place(fspath(source), column, max_bytes)
        else:
            raise InputError(
                f"{type(source).__name__} is no source of pictures; give paths, URLs, globs, or an Arrow table."
            )
        for item in items:
            found = True
            yield item
    if not found:
        raise InputError(f"There are no pictures in {told(sources)}; check the path, and the names of its files.")


def count_local(places: Sequence[str]) -> int | None:
    """Return how many pictures there are, or ``None`` where the names of local files and lists do not tell."""
    if any(scheme_of(place) not in (None, "file") for place in places):
        return None  # a bucket is not listed twice
    count = 0
    try:
        for item in find_items(places, None, 0):
            if isinstance(item.image, Encoded):  # inside another file, which is not read twice
                return None
            count += 1
    except GhostZooError:
        return None  # the work itself will say why
    return count


def read_ahead(items: Iterable[Item], readers: int) -> Iterator[Item]:
    """Yield the same pictures, those of slow storages being fetched by ``readers`` threads meanwhile."""
    pending: deque[tuple[Item, Future[bytes] | None]] = deque()
    with ThreadPoolExecutor(readers, thread_name_prefix="ghostzoo-read") as pool:
        try:
            for item in items:
                pending.append((item, None if item.fetch is None else pool.submit(item.fetch)))
                while len(pending) > readers * _AHEAD or (pending and pending[0][1] is None):
                    yield _ready(*pending.popleft())
            while pending:
                yield _ready(*pending.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _ready(item: Item, future: Future[bytes] | None) -> Item:
    return item if future is None else Item(item.name, Encoded(item.name, future.result))


def _of_place(place: str, column: str | None, max_bytes: int) -> Iterator[Item]:
    """Of a path, URL or glob."""
    if scheme_of(place) in (None, "file"):
        path = place.removeprefix("file://")
        names: Iterable[str] = [path] if Path(path).exists() or not glob.has_magic(path) else _matches(path)
        for name in names:
            yield from _of_file(name, Path(name), column, max_bytes)
        return
    fs, path = open_storage(place)
    with errors_of_reading(place):
        if glob.has_magic(path):
            names = sorted(fs.glob(path))
        elif fs.isdir(path):
            names = _walk(fs, path)
        elif fs.exists(path):
            names = [path]
        else:
            raise FileNotFoundError("there is nothing of that name")
        for name in names:
            yield from _of_object(fs, name, place, column, max_bytes)


def _matches(pattern: str) -> Iterator[str]:
    for name in sorted(glob.iglob(pattern, recursive=True)):  # noqa: PTH207  # absolute ones too
        if Path(name).is_file():
            yield name


def _of_file(name: str, path: Path, column: str | None, max_bytes: int) -> Iterator[Item]:
    """Of a local file or folder."""
    if path.is_dir():
        yield from _of_folder(name, column, max_bytes)
    elif not path.exists():
        raise InputError(f"{name} is not there; check the path.")
    elif path.suffix.lower() in _CONTAINERS:
        yield from _of_local_container(name, column, max_bytes)
    else:
        yield Item(name, path)


def _of_folder(folder: str, column: str | None, max_bytes: int) -> Iterator[Item]:
    """Of a local folder, without asking for more than its list: a folder may have millions of files."""
    with errors_of_reading(folder), os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        suffix = posixpath.splitext(entry.name)[1].lower()
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _of_folder(entry.path, column, max_bytes)
        elif suffix in IMAGE_SUFFIXES:
            yield Item(entry.path, Path(entry.path))
        elif suffix in _TAKEN:
            yield from _of_local_container(entry.path, column, max_bytes)


def _of_local_container(name: str, column: str | None, max_bytes: int) -> Iterator[Item]:
    from fsspec.implementations.local import LocalFileSystem

    yield from _of_container(LocalFileSystem(), name, name, column, max_bytes)


def _of_object(fs: Any, path: str, place: str, column: str | None, max_bytes: int) -> Iterator[Item]:
    """Of an object of another storage."""
    name = fs.unstrip_protocol(path)
    if posixpath.splitext(path)[1].lower() in _CONTAINERS:
        yield from _of_container(fs, path, name, column, max_bytes)
    else:
        yield _remote(fs, path, name, max_bytes)


def _remote(fs: Any, path: str, name: str, max_bytes: int) -> Item:
    def fetch() -> bytes:
        try:
            data: bytes = fs.cat_file(path, start=0, end=max_bytes + 1)  # one request, and no more than is needed
        except Exception as error:  # each storage has errors of its own
            raise OSError(reason(error)) from error
        return data

    return Item(name, None, fetch)


def _walk(fs: Any, path: str) -> Iterator[str]:
    for folder, _, names in fs.walk(path):
        for name in sorted(names):
            if not name.startswith((".", "_")) and posixpath.splitext(name)[1].lower() in _TAKEN:
                yield posixpath.join(folder, name)


def _of_container(fs: Any, path: str, name: str, column: str | None, max_bytes: int) -> Iterator[Item]:
    suffix = posixpath.splitext(path)[1].lower()
    with errors_of_reading(name):
        if suffix == ".tar":
            yield from _of_tar(fs, path, name, max_bytes)
        elif suffix in TABLES:
            yield from _of_table(name, _open_table(fs, path, suffix), column, max_bytes)
        else:
            yield from _of_list(fs, path, name, max_bytes)


def _of_tar(fs: Any, path: str, name: str, max_bytes: int) -> Iterator[Item]:
    with fs.open(path, "rb") as file:
        for member in read_headers(file):
            base = posixpath.basename(member.name)
            if member.isreg() and not base.startswith(".") and posixpath.splitext(base)[1].lower() in IMAGE_SUFFIXES:
                back = file.tell()
                file.seek(member.offset_data)
                data = file.read(min(member.size, max_bytes + 1))
                file.seek(back)
                place = f"{name}::{member.name}"
                yield Item(place, Encoded(place, partial(bytes, data)))


def _of_list(fs: Any, path: str, name: str, max_bytes: int) -> Iterator[Item]:
    """Of a file with a path or URL a line; relative ones are relative to the file."""
    folder = posixpath.dirname(name)
    with fs.open(path, "rt", encoding="utf-8") as file:
        while line := file.readline(_MAX_LINE):
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            if scheme_of(entry) is None:
                entry = posixpath.join(folder, entry)
            yield place_item(entry, max_bytes)


def place_item(place: str, max_bytes: int) -> Item:
    """Return the one picture of a path or URL; it may turn out not to be there."""
    if scheme_of(place) in (None, "file"):
        return Item(place, Path(place.removeprefix("file://")))
    fs, path = open_storage(place)
    return _remote(fs, path, without_secrets(place), max_bytes)


def _of_table(name: str, table: Any, column: str | None, max_bytes: int) -> Iterator[Item]:
    """Of an Arrow table, dataset or reader with a column of bytes, of paths, or of both."""
    chosen = _choose_column(name, table.schema, column)
    number = 0
    for batch in _batches(table, chosen):
        for value in batch.column(chosen):
            place = f"{name}#{number}"
            number += 1
            yield _cell(place, value.as_py(), max_bytes)


def _batches(table: Any, column: str) -> Iterator[Any]:
    if hasattr(table, "to_batches") and not hasattr(table, "scanner"):  # a table in memory
        yield from table.to_batches(max_chunksize=_ROWS_AT_ONCE)
    elif hasattr(table, "scanner"):  # a dataset: only this column is read, in pieces
        yield from table.scanner(
            columns=[column], batch_size=_ROWS_AT_ONCE, batch_readahead=2, fragment_readahead=1
        ).to_batches()
    else:
        yield from table


def _choose_column(name: str, schema: Any, column: str | None) -> str:
    if column is not None:
        if column not in schema.names:
            raise InputError(f"{name} has no column {column!r}, but {', '.join(schema.names)}; name one of them.")
        return column
    for candidate in COLUMNS:
        if candidate in schema.names:
            return candidate
    raise InputError(f"{name} has the columns {', '.join(schema.names)}; say which has the pictures (column).")


def _cell(place: str, value: Any, max_bytes: int) -> Item:
    if isinstance(value, dict):  # as Hugging Face's datasets store images
        path = value.get("path")
        place, value = (f"{place}:{path}" if path else place), value.get("bytes") or path
    if isinstance(value, str) and value:
        return place_item(value, max_bytes)
    data = bytes(value) if isinstance(value, bytes | bytearray | memoryview) else b""
    return Item(place, Encoded(place, lambda: data))


def _open_table(fs: Any, path: str, suffix: str) -> Any:
    try:
        import pyarrow.dataset
    except ModuleNotFoundError:
        raise InputError(f"{path} needs pyarrow, which is not installed; pip install 'ghostzoo[batch]'.") from None
    return pyarrow.dataset.dataset(path, filesystem=fs, format="parquet" if suffix == ".parquet" else "ipc")


_CONTAINERS = (".tar", *TABLES, *LISTS)
_TAKEN = (*IMAGE_SUFFIXES, ".tar", *TABLES)
"""What is taken of a folder; a list file has to be named itself."""

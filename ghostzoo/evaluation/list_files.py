"""PaddleClas list files: one line ``<path> <class index>`` per image, as different tools and systems write them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .._utils.texts import CHINESE, candidates, looks_chinese
from ..errors import InputError

MAX_IMAGES = 50_000_000
MAX_CLASSES = 1_000_000
MAX_LIST_BYTES = 4 * 2**30
MAX_LINE_LENGTH = 64 * 2**10

_LABELLED = re.compile(r"(.*\S)[ \t]+([0-9]+)", re.DOTALL)
_log = logging.getLogger("ghostzoo")


def read_list(path: Path, *, labelled: bool) -> list[tuple[str, int]]:
    """Return the image paths and class indices, in the order of the lines.

    Path and index are separated by spaces or tabs. UTF-8, UTF-16 with a byte order mark, and GB18030 (logged as a
    warning) are read. A backslash is a path separator, unless a file of that very name exists.

    Args:
        path: the list file; image paths are relative to its folder.
        labelled: ``False`` also accepts lines without an index.

    Raises:
        InputError: the file cannot be read, is empty, or has a malformed line.
    """
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise InputError(f"{path} is larger than {MAX_LIST_BYTES} bytes; is it a list file?")
        with path.open("rb") as file:
            encodings = candidates(file.read(4))
        for encoding in encodings:
            try:
                entries = list(_entries(path, encoding, labelled))
            except UnicodeDecodeError:
                continue
            if encoding != CHINESE or looks_chinese("".join(name for name, _ in entries)):
                break
        else:
            raise InputError(f"{path} is neither UTF-8 nor GB18030; save it as UTF-8.")
    except OSError as error:
        raise InputError(f"{path} cannot be read as a list file: {error.strerror or error}.") from error
    if not entries:
        raise InputError(f"{path} lists no images.")
    if encoding == CHINESE:
        _log.warning("%s is not UTF-8 and was read as GB18030; if images are not found, save it as UTF-8.", path)
    return entries


def _entries(path: Path, encoding: str, labelled: bool) -> Iterator[tuple[str, int]]:
    count = 0
    for number, line in enumerate(_lines(path, encoding), start=1):
        if not line:
            continue
        match = _LABELLED.fullmatch(line)
        name, index = match.groups() if match else (line, "0")
        if labelled and (match is None or int(index[:9]) >= MAX_CLASSES):
            raise InputError(f"{path}, line {number}: expected '<path> <class index>', found {line[:80]!r}.")
        count += 1
        if count > MAX_IMAGES:
            raise InputError(f"{path} lists more than {MAX_IMAGES} images; split it.")
        yield _with_slashes(path, name), int(index[:9])


def _with_slashes(path: Path, name: str) -> str:
    if "\\" not in name or os.sep == "\\" or os.path.lexists(path.parent / name):
        return name
    return name.replace("\\", "/")


def _lines(path: Path, encoding: str) -> Iterator[str]:
    with path.open(encoding=encoding) as file:
        while line := file.readline(MAX_LINE_LENGTH + 1):
            if len(line) > MAX_LINE_LENGTH:
                raise InputError(f"{path} has a line of more than {MAX_LINE_LENGTH} characters; is it a list file?")
            yield line.removeprefix("\ufeff").strip()

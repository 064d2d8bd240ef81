"""Text files as editors write them: UTF-8, UTF-16 or GB18030, with a byte order mark or without; and YAML."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
CHINESE = "gb18030"
"""The Chinese encoding; a superset of GBK and GB2312."""
MAX_YAML_BYTES = 2**19
"""A list of 20,000 classes has 400 KB."""
_MAX_DEPTH = 32
"""Parsing time is quadratic in the depth."""


def candidates(start: bytes) -> tuple[str, ...]:
    """Return the possible encodings of a file by its first 4 bytes, the most likely first."""
    return next(((encoding,) for mark, encoding in _MARKS if start.startswith(mark)), ("utf-8", CHINESE))


def decode(data: bytes) -> tuple[str, str]:
    """Decode a file; return its text without the byte order mark, and the encoding.

    Raises:
        UnicodeDecodeError: no encoding fits; the error is that of the most likely one.
    """
    first, *others = candidates(data[:4])
    try:
        return data.decode(first).removeprefix("\ufeff"), first
    except UnicodeDecodeError as error:
        for encoding in others:
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError:
                continue
            if looks_chinese(text):
                return text, encoding
        raise error


def looks_chinese(text: str) -> bool:
    """Whether most non-ASCII characters are common Chinese ones; misread Latin-1 text becomes rare ones."""
    wide = [letter for letter in text if not letter.isascii()]
    return 2 * len("".join(wide).encode("gb2312", "ignore").decode("gb2312")) >= len(wide)


def load_yaml(path: Path) -> Any:
    """Read an untrusted YAML file as strings, lists and dicts only, at bounded cost; every scalar stays as written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not valid YAML, too large or too deeply nested.
    """
    import yaml  # imported only where such a file is read

    with path.open("rb") as file:
        data = file.read(MAX_YAML_BYTES + 1)
    if len(data) > MAX_YAML_BYTES:
        raise ValueError(f"it has more than {MAX_YAML_BYTES} bytes")
    try:
        depth = 0
        for event in yaml.parse(data, yaml.BaseLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
        return yaml.load(data, yaml.BaseLoader)  # noqa: S506  # creates only strings, lists and dicts
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error

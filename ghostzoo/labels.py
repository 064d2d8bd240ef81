"""Class labels: the ImageNet list that ships with the package, and a user's own label files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path

from .errors import LabelsError

MAX_LABEL_FILE_BYTES = 16 * 2**20
"""Larger label files are refused; ImageNet-21k's list has less than 1 MB."""


@dataclass(frozen=True)
class ClassLabel:
    """Name of one class; its index is its place in the sequence."""

    label: str
    wnid: str | None = None
    """WordNet id such as ``n02123045``, where the class has one."""


@lru_cache(maxsize=1)
def imagenet_labels() -> tuple[ClassLabel, ...]:
    """Return the 1,000 classes of ImageNet-1k, in the order of the official weights' outputs."""
    from importlib.resources import files

    text = (files(__package__) / "data" / "imagenet1k.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines()[1:])
    return tuple(ClassLabel(label, wnid) for _, wnid, label in rows)


def read_labels(path: str | PathLike[str], num_classes: int) -> tuple[ClassLabel, ...]:
    """Read a label file in the original's format: a line ``<id><space><name>`` for each class, in any order.

    Args:
        path: the file, UTF-8.
        num_classes: how many classes it has to name.

    Raises:
        LabelsError: the file cannot be read, a line is malformed, or an id is missing, repeated or out of range.
    """
    path = Path(path)
    names: dict[int, str] = {}
    for number, line in enumerate(io.StringIO(_read_text(path), newline=None), start=1):
        line = line.strip()
        if not line:
            continue
        identifier, _, name = line.partition(" ")
        if not (identifier.isascii() and identifier.isdecimal() and name.strip()):
            raise LabelsError(f"{path}, line {number}: expected '<id> <name>' such as '0 cat', found {line[:80]!r}.")
        index = int(identifier.lstrip("0")[:10] or "0")
        if index >= num_classes:
            raise LabelsError(
                f"{path}, line {number}: class id {identifier[:20]} is beyond the model's {num_classes} classes "
                f"(0 to {num_classes - 1}); is this the label file of another model?"
            )
        if index in names:
            raise LabelsError(f"{path}, line {number}: class id {index} is named twice; keep one of the lines.")
        names[index] = name.strip()
    missing = [index for index in range(num_classes) if index not in names]
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise LabelsError(f"{path} names {len(names)} of {num_classes} classes; missing ids: {shown}. Add their lines.")
    return tuple(ClassLabel(names[index]) for index in range(num_classes))


def resolve_labels(labels: str | PathLike[str] | Sequence[str] | None, num_classes: int) -> tuple[ClassLabel, ...]:
    """Return a class list from what a caller passed: a label file, the names themselves, or ``None`` for ImageNet's.

    Raises:
        LabelsError: the labels do not fit ``num_classes``.
    """
    if labels is None:
        if num_classes != len(imagenet_labels()):
            raise LabelsError(
                f"The weights have {num_classes} classes, so ImageNet's {len(imagenet_labels())} labels do not fit; "
                "pass labels: a file with a line '<id> <name>' for each class."
            )
        return imagenet_labels()
    if isinstance(labels, str | PathLike):
        return read_labels(labels, num_classes)
    if not isinstance(labels, Sequence):
        raise LabelsError(f"labels must be a label file or a list of names, not {labels!r}.")
    if len(labels) != num_classes:
        raise LabelsError(f"{len(labels)} labels were passed for {num_classes} classes; pass one for each class.")
    return tuple(ClassLabel(str(label)) for label in labels)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LABEL_FILE_BYTES + 1)
    except OSError as error:
        raise LabelsError(f"Cannot read the label file {path}: {error.strerror or error}; check the path.") from error
    if len(data) > MAX_LABEL_FILE_BYTES:
        raise LabelsError(f"{path} is larger than {MAX_LABEL_FILE_BYTES} bytes; is it a label file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelsError(f"{path} is no UTF-8 text (byte {error.start}); save it as UTF-8.") from error

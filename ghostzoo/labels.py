"""Class labels: the ImageNet list that ships with the package, and a user's own label files."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from .errors import LabelsError

MAX_LABEL_FILE_BYTES = 16 * 2**20
"""Larger label files are refused; ImageNet-21k's list has less than 1 MB."""
MAX_LABEL_LINES = 1_000_000

_NUMBERED = re.compile(r"([0-9]+)[ \t]\s*(\S.*)", re.DOTALL)
WNID = re.compile(r"n[0-9]{8}")
"""A WordNet id."""
_MULTI_LABEL = "MultiLabelThreshOutput"
_log = logging.getLogger("ghostzoo")


@dataclass(frozen=True)
class ClassLabel:
    """Name of one class; its index is its position in the sequence."""

    label: str
    wnid: str | None = None
    """WordNet id such as ``n02123045``, where the class has one."""


@lru_cache(maxsize=1)
def imagenet_labels() -> tuple[ClassLabel, ...]:
    """Return the 1,000 classes of ImageNet-1k, in the order of the official weights' outputs."""
    return tuple(ClassLabel(label, wnid) for _, wnid, label in read_table("imagenet1k"))


def read_table(name: str) -> list[list[str]]:
    """Return the rows of a table of the package, such as ``imagenet1k``, without its header."""
    from importlib.resources import files

    text = (files(__package__) / "data" / f"{name}.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()[1:]]


def read_labels(path: str | PathLike[str], num_classes: int | None = None) -> tuple[ClassLabel, ...]:
    """Read a label file.

    A text file has one line per class: ``<id> <name>`` in any order, separated by a space or a tab, or the names alone
    in class order. UTF-8, UTF-16 with a byte order mark, and GB18030 (logged as a warning) are read. A ``.yml`` file is
    the ``inference.yml`` that PaddleX and PaddleClas export, a ``.json`` file the ``config.json`` that timm writes.

    Args:
        path: the file.
        num_classes: number of classes it must name; ``None`` accepts any.

    Raises:
        LabelsError: the file cannot be read, a line is malformed, an id is missing, repeated or out of range, or the
            number of names is not that of the classes.
    """
    path = Path(path)
    if is_timm_config(path):
        labels = _timm_labels(path, num_classes)
        _check_count(path, len(labels), num_classes)
        return labels
    if is_export_config(path):
        names = _exported_names(path)
    else:
        lines = [line.strip() for line in islice(io.StringIO(_read_text(path), newline=None), MAX_LABEL_LINES + 1)]
        if len(lines) > MAX_LABEL_LINES:
            raise LabelsError(f"{path} has more than {MAX_LABEL_LINES} lines; is it a label file?")
        if any(map(_NUMBERED.fullmatch, lines)):
            return _numbered(path, lines, num_classes)
        names = _names_alone(path, lines)
    _check_count(path, len(names), num_classes)
    return tuple(map(ClassLabel, names))


def _check_count(path: Path, names: int, num_classes: int | None) -> None:
    if num_classes is not None and names != num_classes:
        raise LabelsError(
            f"{path} names {names} classes, the model has {num_classes}; is this the label file of another model?"
        )


def is_export_config(path: str | PathLike[str]) -> bool:
    """Whether ``path`` is an ``inference.yml`` with labels and preprocessing, judging by its suffix."""
    return Path(path).suffix.lower() in (".yml", ".yaml")


def read_export_config(path: str | PathLike[str]) -> dict[str, Any]:
    """Read an ``inference.yml`` of PaddleX or PaddleClas as plain strings, lists and dicts.

    Raises:
        LabelsError: it cannot be read.
    """
    from ._utils.texts import load_yaml

    try:
        content = load_yaml(Path(path))
    except OSError as error:
        raise LabelsError(f"Cannot read {path}: {error.strerror or error}; check the path.") from error
    except ValueError as error:
        raise LabelsError(f"{path} is not readable YAML: {error}. Pass the inference.yml of an export.") from error
    return content if isinstance(content, dict) else {}


def is_multi_label_export(path: str | PathLike[str]) -> bool:
    """Whether a file is the ``inference.yml`` of a model that finds any number of classes in an image."""
    if not is_export_config(path):
        return False
    steps = read_export_config(Path(path)).get("PostProcess")
    return isinstance(steps, dict) and _MULTI_LABEL in steps


def is_timm_config(path: str | PathLike[str]) -> bool:
    """Whether ``path`` is to be read as timm's ``config.json``, judging by its suffix."""
    return Path(path).suffix.lower() == ".json"


def find_timm_config(weights: str | PathLike[str]) -> Path | None:
    """Return the ``config.json`` that timm wrote beside a weight file, if there is one."""
    path = Path(weights).with_name("config.json")
    if Path(weights).suffix.lower() != ".safetensors" or not path.is_file():
        return None
    return path if isinstance(read_timm_config(path).get("architecture"), str) else None


def read_timm_config(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a ``config.json`` of timm.

    Raises:
        LabelsError: it cannot be read, or is no JSON object.
    """
    try:
        content = json.loads(_read_text(Path(path)))
    except (ValueError, RecursionError) as error:
        raise LabelsError(f"{path} is not readable JSON ({str(error)[:100]}); get it again, or remove it.") from error
    return content if isinstance(content, dict) else {}


def _timm_labels(path: Path, num_classes: int | None) -> tuple[ClassLabel, ...]:
    """The classes of a ``config.json``: their descriptions where it has them, or else their names.

    One without names is of ImageNet-1k if it has a thousand classes.
    """
    content = read_timm_config(path)
    described = content.get("pretrained_cfg")
    places = (content, described) if isinstance(described, dict) else (content,)
    names, descriptions = (
        next((place[key] for place in places if place.get(key)), None) for key in ("label_names", "label_descriptions")
    )
    if names is None and num_classes in (None, len(imagenet_labels())):
        return imagenet_labels()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LabelsError(f"{path} has no list of label_names; pass labels: a file with a class name on each line.")
    descriptions = descriptions if isinstance(descriptions, dict) else {}
    return tuple(
        ClassLabel(str(descriptions.get(name, name)), name if WNID.fullmatch(name) else None) for name in names
    )


def _exported_names(path: Path) -> list[str]:
    steps = read_export_config(path).get("PostProcess")
    steps = steps if isinstance(steps, dict) else {}
    kind = _MULTI_LABEL if _MULTI_LABEL in steps else "Topk"
    step = steps.get(kind)
    step = step if isinstance(step, dict) else {}
    names = step.get("label_list")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return names
    if isinstance(file := step.get("class_id_map_file"), str):
        raise LabelsError(f"{path} names its classes in another file, {file[:80]!r}; pass that file as labels.")
    raise LabelsError(
        f"{path} has no label_list under PostProcess; pass the inference.yml of an exported classifier, or a text file "
        "with a name on each line."
    )


def _names_alone(path: Path, lines: list[str]) -> list[str]:
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise LabelsError(
            f"{path}, line {lines.index('') + 1} is empty, but without ids every line is a class; remove the line, or "
            "number the others, such as '0 cat'."
        )
    return lines


def _numbered(path: Path, lines: list[str], num_classes: int | None) -> tuple[ClassLabel, ...]:
    if num_classes is None:
        num_classes = sum(map(bool, lines))
    names: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        match = _NUMBERED.fullmatch(line)
        if match is None:
            raise LabelsError(f"{path}, line {number}: expected '<id> <name>' such as '0 cat', found {line[:80]!r}.")
        identifier, name = match.groups()
        index = int(identifier.lstrip("0")[:10] or "0")
        if index >= num_classes:
            raise LabelsError(
                f"{path}, line {number}: class id {identifier[:20]} is beyond the model's {num_classes} classes "
                f"(0 to {num_classes - 1}); is this the label file of another model?"
            )
        if index in names:
            raise LabelsError(f"{path}, line {number}: class id {index} is named twice; keep one of the lines.")
        names[index] = name
    missing = [index for index in range(num_classes) if index not in names]
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise LabelsError(f"{path} names {len(names)} of {num_classes} classes; missing ids: {shown}. Add their lines.")
    return tuple(ClassLabel(names[index]) for index in range(num_classes))


def resolve_labels(labels: str | PathLike[str] | Sequence[str] | None, num_classes: int) -> tuple[ClassLabel, ...]:
    """Return the class list for what a caller passed: a label file, the names themselves, or ``None`` for ImageNet's.

    Raises:
        LabelsError: the labels do not fit ``num_classes``.
    """
    if labels is None:
        if num_classes != len(imagenet_labels()):
            raise LabelsError(
                f"The weights have {num_classes} classes, so ImageNet's {len(imagenet_labels())} labels do not fit; "
                "pass labels: a file with a line '<id> <name>' for each class, or an export's inference.yml."
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
    from ._utils.texts import CHINESE, decode

    try:
        with path.open("rb") as file:
            data = file.read(MAX_LABEL_FILE_BYTES + 1)
    except IsADirectoryError as error:
        raise LabelsError(f"{path} is a folder; pass the label file or the inference.yml in it.") from error
    except OSError as error:
        raise LabelsError(f"Cannot read the label file {path}: {error.strerror or error}; check the path.") from error
    if len(data) > MAX_LABEL_FILE_BYTES:
        raise LabelsError(f"{path} is larger than {MAX_LABEL_FILE_BYTES} bytes; is it a label file?")
    try:
        text, encoding = decode(data)
    except UnicodeDecodeError as error:
        raise LabelsError(f"{path} is neither UTF-8 (byte {error.start}) nor GB18030; save it as UTF-8.") from error
    if encoding == CHINESE:
        _log.warning("%s is not UTF-8 and was read as GB18030; if the names look wrong, save it as UTF-8.", path)
    return text

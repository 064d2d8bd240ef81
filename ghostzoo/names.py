"""Names for people, of the classes of ImageNet and CIFAR-10 and their groups, by WordNet id.

``data/NOTICES.txt`` says where the tables come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from os import PathLike
from pathlib import Path

from .errors import OptionError
from .labels import WNID, ClassLabel, read_table, resolve_labels

LANGUAGES = {"en": "English", "zh": "Chinese"}
_TAG = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
"""What looks like a language, and not like a file."""
_MOST_RANGES = 100
"""Of an ``Accept-Language`` header, so many are read."""


@cache
def names_in(language: str) -> Mapping[str, str]:
    """Return the names of a language of ``LANGUAGES``, by WordNet id."""
    return {wnid: name for wnid, name in read_table(f"names.{language}")}  # noqa: C416


@cache
def _cifar10() -> Mapping[str, str]:
    return {label: wnid for _, wnid, label in read_table("cifar10")}


def wnids(labels: Sequence[ClassLabel]) -> list[str | None]:
    """Return each class's WordNet id, if it has one.

    It may be the label itself, as in folders of ImageNet, and the ten classes of CIFAR-10 have theirs by their labels.
    """
    known = _cifar10() if {each.label for each in labels} == _cifar10().keys() else {}
    return [each.wnid or (each.label if WNID.fullmatch(each.label) else known.get(each.label)) for each in labels]


def find_language(tag: str) -> str | None:
    """Return the language of ``LANGUAGES`` that a tag such as ``zh-CN`` means, if it is one of them."""
    language = tag.lower().replace("_", "-").partition("-")[0]
    return language if language in LANGUAGES else None


def has_names(labels: Sequence[ClassLabel], language: str) -> bool:
    """Whether every one of the classes has a name in the language."""
    return names_in(language).keys() >= set(wnids(labels))


def named(labels: Sequence[ClassLabel], language: str) -> tuple[ClassLabel, ...]:
    """Return the classes with their names in a language of ``LANGUAGES`` as labels.

    Raises:
        OptionError: there is a class that has none.
    """
    names, found = names_in(language), wnids(labels)
    missing = [each.label for each, wnid in zip(labels, found, strict=True) if wnid not in names]
    if missing:
        raise OptionError(
            f"{len(missing)} of the model's {len(labels)} classes, such as {missing[0][:80]!r}, have no name in "
            f"{LANGUAGES[language]}, as only ImageNet's and CIFAR-10's have; pass labels: a list of names, or a file."
        )
    return tuple(replace(each, label=names[wnid or ""]) for each, wnid in zip(labels, found, strict=True))


def choose(
    labels: str | PathLike[str] | Sequence[str], own: Sequence[ClassLabel]
) -> tuple[tuple[ClassLabel, ...], str | None]:
    """Return a model's classes with the names that a caller wants, and their language, if it is of ``LANGUAGES``.

    Args:
        labels: a language such as ``zh``; a label file; or the names.
        own: the model's classes as it names them itself.

    Raises:
        OptionError: there is no such language, or not all classes have a name in it.
        LabelsError: the labels cannot be read, or do not fit.
    """
    if isinstance(labels, str):
        language = find_language(labels)
        if language is not None:
            return named(own, language), language
        if _TAG.fullmatch(labels) and not Path(labels).exists():
            raise OptionError(
                f"There are no names in {labels!r}, only in {' and '.join(LANGUAGES)}; pass one of these, a list of "
                "names, or a label file."
            )
    given = resolve_labels(labels, len(own))
    return tuple(replace(old, label=new.label) for old, new in zip(own, given, strict=True)), None


def preferred(accepted: str, languages: Iterable[str]) -> str | None:
    """Return which of the languages an ``Accept-Language`` header likes best; ``None`` if none, or any other more."""
    found: dict[str, float] = {}
    for part in accepted.split(",")[:_MOST_RANGES]:
        tag, *parameters = (piece.strip() for piece in part.split(";"))
        language = "*" if tag == "*" else find_language(tag)
        if language is not None:
            found[language] = max(found.get(language, 0.0), _quality(parameters))
    offered = set(languages)
    best = max((language for language in found if language in offered), key=found.__getitem__, default=None)
    return best if best is not None and found[best] > 0 and found[best] >= found.get("*", 0.0) else None


def _quality(parameters: Sequence[str]) -> float:
    """The weight of a range; of a malformed one, none."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0 <= quality <= 1 else 0.0
    return 1.0

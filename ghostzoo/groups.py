"""Groups of classes by WordNet: 118 of ImageNet's are a dog, and a dog is an animal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .errors import OptionError, nearest
from .labels import ClassLabel, read_table
from .names import names_in, wnids

BASIC = "basic"
"""What stands for the groups of ``BASIC_GROUPS``."""
BASIC_GROUPS = (
    "dog, wolf, wild dog, fox, cat, big cat, bear, monkey, ape, lemur, elephant, horse, deer, swine, bovid, rodent, "
    "leporid, musteline mammal, marsupial, whale, bird, fish, shark, snake, lizard, turtle, crocodilian reptile, "
    "frog, salamander, insect, butterfly, beetle, spider, crab, lobster, mollusk, airplane, aircraft, vehicle, car, "
    "bus, truck, van, bicycle, locomotive, boat, ship, musical instrument, furniture, clothing, footwear, hat, "
    "helmet, headdress, bag, bottle, ball, electronic equipment, computer, telephone, timepiece, home appliance, "
    "kitchen utensil, crockery, tool, weapon, measuring instrument, sports equipment, toiletry, building, shop, "
    "dwelling, bridge, fence, roof, dish (nutriment), bread, dessert, beverage, edible fruit, vegetable, flower, "
    "fungus, geological formation"
)
"""What people call things first; a class that is in none of them stays by itself."""


_SHOWN = 20


@dataclass(frozen=True)
class Group:
    """What several classes are, such as a dog."""

    wnid: str
    names: tuple[str, ...]
    """In English; the first one is no other group's."""

    def name(self, language: str | None) -> str:
        """The name in a language of ``LANGUAGES``; by default in English."""
        return names_in("zh")[self.wnid] if language == "zh" else self.names[0]


@cache
def _wordnet() -> tuple[Mapping[str, list[str]], Mapping[str, Group]]:
    """Return, of each class and group, the groups right above it; and all groups."""
    rows = read_table("wordnet")
    groups = {wnid: Group(wnid, tuple(names.split(", "))) for wnid, _, names in rows if names}
    return {wnid: above.split() for wnid, above, _ in rows}, groups


def members(labels: Sequence[ClassLabel]) -> dict[str, list[int]]:
    """Return the classes, by index, of each group that a model knows, by WordNet id."""
    parents, groups = _wordnet()
    found: dict[str, list[int]] = {}
    for index, wnid in enumerate(wnids(labels)):
        above, waiting = set[str](), [wnid] if wnid in parents else []
        while waiting:
            each = waiting.pop()
            if each is not None and each not in above:
                above.add(each)
                waiting += parents[each]
        for each in sorted(above & groups.keys()):
            found.setdefault(each, []).append(index)
    return found


def group_names(labels: Sequence[ClassLabel]) -> dict[str, list[int]]:
    """Return the classes, by index, of each group that a model knows, by the group's first name."""
    _, groups = _wordnet()
    return {groups[wnid].names[0]: classes for wnid, classes in members(labels).items()}


class Grouping:
    """A model's classes, some of them in groups: each is in one group or by itself, so that scores still add up to 1.

    A class that is in several of the groups counts for the one with the fewest classes.
    """

    def __init__(self, classes: int, known: Mapping[str, list[int]], wanted: str | Sequence[str]) -> None:
        """Choose groups.

        Args:
            classes: how many the model has.
            known: which of them each group has, see ``members``.
            wanted: names or WordNet ids of groups, or ``basic``; in one text, with commas between.

        Raises:
            OptionError: there is no such group among these classes.
        """
        chosen = {group.wnid: group for group in _find(wanted, known)}
        self._group_of: dict[int, Group] = {}
        for wnid in sorted(chosen, key=lambda wnid: len(known[wnid]), reverse=True):
            self._group_of |= dict.fromkeys(known[wnid], chosen[wnid])
        columns: dict[object, int] = {}
        self._columns = np.array(
            [columns.setdefault(self._group_of.get(index, index), len(columns)) for index in range(classes)]
        )
        """Class -> where its score goes."""
        self.items: list[tuple[Group | None, list[int]]] = [(None, []) for _ in columns]
        """A group, or none, and its classes."""
        for index, column in enumerate(self._columns.tolist()):
            self.items[column] = (self._group_of.get(index), [*self.items[column][1], index])

    def sums(self, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return what the classes' probabilities (classes,) of an image add up to, for each of the items: float64."""
        totals = np.bincount(self._columns, probabilities, len(self.items))
        return totals.astype(np.float64, copy=False)


def split(wanted: object) -> tuple[str, ...]:
    """Return the names of groups that a caller gave, in one text or several.

    Raises:
        OptionError: it gave something else.
    """
    texts = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise OptionError(f"group must be the name of a group, such as 'dog', or several, not {wanted!r}.")
    found = tuple(name for text in texts for name in map(str.strip, text.split(",")) if name)
    if not found:
        raise OptionError("group names no group; give one such as 'dog', or leave it out.")
    return found


def _find(wanted: str | Sequence[str], known: Mapping[str, list[int]]) -> list[Group]:
    _, groups = _wordnet()
    if not known:
        raise OptionError(
            "None of the model's classes is in WordNet, as ImageNet's and CIFAR-10's are, so there are no groups; "
            "leave out group."
        )
    by_name: dict[str, Group] = {}
    for wnid in known:
        for name in (wnid, groups[wnid].name("zh"), *groups[wnid].names):
            by_name[name.lower()] = groups[wnid]
    found = []
    for name in split(wanted):
        if name.lower() == BASIC:
            found += [by_name[each] for each in BASIC_GROUPS.lower().split(", ") if each in by_name]
        elif name.lower() in by_name:
            found.append(by_name[name.lower()])
        else:
            shown = sorted({group.names[0] for group in by_name.values()}, key=lambda name: (len(name), name))
            hint = nearest(name[:80], shown, examples=shown[:_SHOWN])
            raise OptionError(f"No group {name[:80]!r} has classes of this model. {hint}")
    return found

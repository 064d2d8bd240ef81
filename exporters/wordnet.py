"""``python -m exporters.wordnet DICT``: write ghostzoo/data/wordnet.tsv from WordNet 3.0.

DICT is the folder with data.noun and index.noun, such as /usr/share/wordnet of Debian's package wordnet-base.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ghostzoo.labels import imagenet_labels, read_table

TABLE = Path(__file__).parents[1] / "ghostzoo" / "data" / "wordnet.tsv"
_HYPERNYM = ("@", "@i")


@dataclass(frozen=True)
class Synset:
    """A meaning, by the words that have it, and the more general ones right above it."""

    words: tuple[str, ...]
    parents: tuple[str, ...]


def read_synsets(data: Path) -> dict[str, Synset]:
    """Return all nouns of a data.noun, by WordNet id."""
    synsets = {}
    for line in data.read_text(encoding="latin-1").splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields = line.partition(" | ")[0].split()
        count = int(fields[3], 16)
        words = tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])
        pointers = fields[5 + 2 * count :]
        parents = tuple(
            f"n{offset}" for kind, offset in zip(pointers[::4], pointers[1::4], strict=False) if kind in _HYPERNYM
        )
        synsets[f"n{fields[0]}"] = Synset(words, parents)
    return synsets


def read_ranks(index: Path) -> dict[str, list[str]]:
    """Return, of an index.noun, each word's meanings, the most frequent first."""
    ranks = {}
    for line in index.read_text(encoding="latin-1").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            ranks[fields[0].replace("_", " ")] = [f"n{offset}" for offset in fields[-int(fields[2]) :]]
    return ranks


def above(wnid: str, synsets: dict[str, Synset]) -> Iterator[str]:
    """All that is more general than a meaning, and itself."""
    found, waiting = set(), [wnid]
    while waiting:
        if (each := waiting.pop()) not in found:
            found.add(each)
            waiting += synsets[each].parents
            yield each


def table(synsets: dict[str, Synset], ranks: dict[str, list[str]]) -> str:
    """Return the text of the table: a line for each class and each group of two classes of ImageNet or more."""
    classes = [label.wnid or "" for label in imagenet_labels()]
    others = [wnid for _, wnid, _ in read_table("cifar10")]
    members = defaultdict(set)
    for wnid in classes:
        for group in above(wnid, synsets):
            members[group].add(wnid)
    listed = {group for group, found in members.items() if len(found) > 1} | set(classes) | set(others)
    lines = ["wnid\tgroups\tnames"]
    for wnid in [*classes, *sorted(listed - set(classes))]:
        names = "" if wnid in classes else ", ".join(_names(wnid, synsets, ranks, listed))
        lines.append(f"{wnid}\t{' '.join(_parents(wnid, synsets, listed))}\t{names}")
    return "\n".join(lines) + "\n"


def _parents(wnid: str, synsets: dict[str, Synset], listed: Iterable[str]) -> list[str]:
    """The groups right above, without those that are above another of them."""
    found, waiting = [], list(synsets[wnid].parents)
    while waiting:
        each = waiting.pop(0)
        if each in listed:
            found.append(each)
        else:
            waiting += synsets[each].parents
    distant = {group for each in found for group in above(each, synsets) if group != each}
    return [each for each in dict.fromkeys(found) if each not in distant]


def _names(wnid: str, synsets: dict[str, Synset], ranks: dict[str, list[str]], listed: Iterable[str]) -> list[str]:
    """A group's words, without those that mean another class or group more often."""
    words = synsets[wnid].words
    own = [word for word in words if next(each for each in ranks[word.lower()] if each in listed) == wnid]
    return own or [f"{words[0]} ({synsets[synsets[wnid].parents[0]].words[0]})"]


def main(folder: str) -> None:
    synsets, ranks = read_synsets(Path(folder, "data.noun")), read_ranks(Path(folder, "index.noun"))
    TABLE.write_text(table(synsets, ranks), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

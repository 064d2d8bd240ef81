"""The full model card: the bundle's own, with the Hub's metadata and what a stranger has to know in their places."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from ghostzoo.bench.results import Results
from ghostzoo.bench.tables import to_markdown
from ghostzoo.bundle.folder import CARD_FILE, Bundle
from ghostzoo.catalog import CatalogModel, find_record
from ghostzoo.errors import OptionError
from ghostzoo.predictions import THRESHOLD
from hub.citations import citation
from hub.metadata import Accuracy, find_dataset, write_metadata
from hub.pixels import preprocessing_texts

_USE = Path(__file__).with_name("use.md")
_NAMED_CLASSES = 20
"""So many classes at most are listed by name."""
_OWN = ("Use", "Intended use and limits", "Accuracy", "Speed", "Citation")
"""Headings of the sections that are written here; all others of the bundle's card are kept."""

_USES = """\
It tells which of {classes} one photograph shows, and gives features for other tasks (`embedding`). It is small enough
for phones, browsers and single CPU cores.

It knows these classes only: {others}. A score is no probability of being
right unless it was calibrated on data like yours. Do not let it decide about people, or where a mistake endangers
someone; measure it on your own pictures before you rely on it.{limits}
"""
_MULTI_LABEL = f"""\
The score of a class is the sigmoid of its logit, `1 / (1 + exp(-logit))`, and a picture shows every class with a score
of at least {THRESHOLD:g}."""
_UNKNOWN = "None is stated: these weights are not known to be those on which the published accuracy was measured."


@dataclass(frozen=True)
class CardFacts:
    """What a card says that the bundle does not."""

    license: str | None = None
    """For weights that are not the catalog's; theirs is known."""
    known_weights: Collection[str] = ()
    """SHA-256s of the weights that the catalog's figures are of: no others get these figures."""
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Model -> report of ``ghostzoo eval``."""
    speeds: Mapping[str, Results] = field(default_factory=dict)
    """Model -> results of ``ghostzoo bench``."""


def write_full_card(bundle: Bundle, repo: str, facts: CardFacts) -> str:
    """Return the Markdown text of the card of ``bundle`` in the repository ``repo``; the same facts give the same text.

    Raises:
        OptionError: a licence was named for weights whose licence is known.
    """
    record = find_record(bundle.name, bundle.manifest.weights.get("source_url"))
    if record is not None and facts.license not in (None, record.license):
        raise OptionError(f"The licence of {bundle.name} is {record.license}; --license is for weights of your own.")
    has_figures = record is not None and bundle.manifest.weights["sha256"] in facts.known_weights
    accuracies = [
        *_published(record if has_figures else None),
        *_measured(bundle, record if has_figures else None, facts),
    ]
    metadata = write_metadata(bundle, record, record.license if record else facts.license, accuracies)
    introduction, kept = _split(bundle.read(CARD_FILE).decode())
    photographs = record.measured.photographs if record is not None and record.measured is not None else ""
    sections = {
        "Intended use and limits": _uses(bundle, record),
        "Accuracy": (
            _accuracy_table(accuracies)
            or _average_precision(facts.evaluations.get(bundle.name))
            or (_UNKNOWN if record is not None else "")
        )
        + (f"\n\nIt recognised {photographs}." if photographs and has_figures else ""),
        "Use": _use(bundle, repo),
        **{heading: text for heading, text in kept.items() if heading not in _OWN},
        "Speed": _speed(facts.speeds.get(bundle.name)),
        "Citation": citation(bundle.config.family),
    }
    body = "\n\n".join(f"## {heading}\n\n{text.strip()}" for heading, text in sections.items() if text)
    return f"---\n{metadata}\n---\n\n{introduction.strip()}\n\n{body}\n"


def _split(card: str) -> tuple[str, dict[str, str]]:
    """Split a card into what stands before its first section, without metadata, and its sections by heading."""
    if card.startswith("---\n"):
        card = card.partition("\n---\n")[2]
    introduction: list[str] = []
    sections: dict[str, list[str]] = {}
    current, in_code = introduction, False
    for line in card.splitlines():
        in_code ^= line.startswith("```")
        if line.startswith("## ") and not in_code:
            current = sections.setdefault(line.removeprefix("## ").strip(), [])
        else:
            current.append(line)
    return "\n".join(introduction), {heading: "\n".join(lines) for heading, lines in sections.items()}


def _published(record: CatalogModel | None) -> Iterator[Accuracy]:
    if record is None or record.published is None:
        return
    figures, data = record.published, "ImageNet-1k, 50,000 validation images"
    source = (figures.publisher, figures.source)
    yield Accuracy(figures.top1, figures.top5, f"published by {figures.publisher}", data, find_dataset(record), source)


def _measured(bundle: Bundle, record: CatalogModel | None, facts: CardFacts) -> Iterator[Accuracy]:
    report = facts.evaluations.get(bundle.name)
    if report is not None and "top1" in report:
        data = f"{report.get('data') or 'Labelled images'}, {report['images']:,} images"
        yield Accuracy(report["top1"]["value"], report["top5"]["value"], "measured by ghostzoo", data, dataset=None)
    elif record is not None and record.measured is not None:
        figures = record.measured
        data = f"{figures.data[0].upper()}{figures.data[1:]}, {figures.images:,} images"
        yield Accuracy(
            figures.top1,
            figures.top5,
            "measured by ghostzoo",
            data,
            find_dataset(record),
            photographs=figures.photographs,
        )


def _accuracy_table(accuracies: list[Accuracy]) -> str:
    if not accuracies:
        return ""
    rows = ["| | top-1 | top-5 | images |", "|---|---|---|---|"]
    for accuracy in accuracies:
        who = f"[{accuracy.who}]({accuracy.source[1]})" if accuracy.source else accuracy.who
        rows.append(f"| {who} | {accuracy.top1:.4f} | {accuracy.top5:.4f} | {accuracy.data} |")
    return "\n".join(rows)


def _average_precision(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return ""
    data = f"{report.get('data') or 'Labelled images'}, {report['images']:,} images"
    return (
        f"| | mean average precision | F1 from {report['threshold']:g} on | images |\n|---|---|---|---|\n"
        f"| measured by ghostzoo | {report['mean_average_precision']:.4f} | {report['micro_f1']:.4f} | {data} |"
    )


def _speed(results: Results | None) -> str:
    return "" if results is None else to_markdown(results).partition("\n")[2]  # without its title


def _uses(bundle: Bundle, record: CatalogModel | None) -> str:
    names = ", ".join(label.label for label in bundle.labels)
    classes = f"{bundle.num_classes:,} classes" + (f" ({names})" if bundle.num_classes <= _NAMED_CLASSES else "")
    limits = f"\n\n{record.limits}" if record is not None and record.limits else ""
    multi_label = bundle.config.multi_label
    others = (
        "it names any number of them, and is silent about whatever else a picture shows"
        if multi_label
        else "whatever else a picture shows, one of them is named"
    )
    return _USES.format(classes=classes, limits=limits, others=others)


def _use(bundle: Bundle, repo: str) -> str:
    multi_label = bundle.config.multi_label
    text = _USE.read_text("utf-8")
    if multi_label:  # transformers.js's pipeline takes the softmax of any image classifier
        text = f"{_MULTI_LABEL}\n\n{text.partition('$pipeline')[0]}"
    return Template(text).substitute(
        softmax="" if multi_label else ", softmax",
        scores="[...logits.data].map((logit) => 1 / (1 + Math.exp(-logit)))"
        if multi_label
        else "[...softmax(logits.data)]",
        pipeline="",
        repo=repo,
        **preprocessing_texts(bundle.preprocessing),
    )

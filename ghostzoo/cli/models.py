"""``ghostzoo list`` and ``ghostzoo info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..catalog import SORT_KEYS, CatalogModel, get_model, list_families, list_models
from ..network.families import FAMILIES
from .console import ANY_PATH, Command, echo, print_facts, print_prose, print_table, table_lines
from .options import fetch_options


@click.command("list", cls=Command)
@click.argument("pattern", default="*")
@click.option("--family", type=click.Choice(list_families()), help="Only models of this family.")
@click.option("--max-params", type=click.FloatRange(min=0), help="Millions of parameters at most.")
@click.option("--min-top1", type=click.FloatRange(0, 1), help="Top-1 accuracy on ImageNet-1k at least, such as 0.75.")
@click.option("--sort", type=click.Choice(list(SORT_KEYS)), help="In this order, and not family by family.")
@click.option("--pareto", is_flag=True, help="Measure each network's latency here, and mark the best models.")
@click.option("--out", type=ANY_PATH, help="With --pareto: a PNG to draw top-1 against latency in.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines: one object per model.")
def list_command(pattern: str, as_json: bool, pareto: bool, out: str | None, **chosen: Any) -> None:
    """List the models of the catalog.

    PATTERN selects some of them by name; its wildcards are *, ? and [...].

    \b
    Examples:
      ghostzoo list
      ghostzoo list "*x1*"
      ghostzoo list --max-params 6 --min-top1 0.74 --sort params
      ghostzoo list --pareto --out pareto.png
    """
    from ..errors import nearest

    records = [get_model(name) for name in list_models(pattern, **chosen)]
    if not records:
        if not list_models(pattern):
            raise click.ClickException(f"No model matches {pattern!r}. {nearest(pattern, list_models())}")
        raise click.ClickException("No model meets all of these options; leave one out.")
    if pareto:
        _show_front([record for record in records if record.published], as_json, out)
        return
    if out is not None:
        raise click.UsageError("--out is for the picture of --pareto.")
    if as_json:
        for record in records:
            click.echo(json.dumps(record.to_dict()))
        return
    head, *lines = table_lines(_COLUMNS, map(_row, records))
    echo(click.style(head, bold=True))
    family = None
    for record, line in zip(records, lines, strict=True):
        if chosen["sort"] is None and record.group != family:
            family = record.group
            echo(click.style(_TITLES[family], bold=True))
        echo(line)
    print_prose(_caption(records))


def _show_front(records: list[CatalogModel], as_json: bool, out: str | None) -> None:
    """Print models from the fastest to the slowest, those on the front marked, and draw them."""
    from .._utils.files import write_atomically
    from .._utils.plots import require_matplotlib
    from ..bench.machine import describe_machine, machine_line
    from ..bench.pareto import draw, find_front, measure_latencies

    if not records:
        raise click.ClickException("None of these models has an accuracy on ImageNet-1k to compare.")
    if out is not None:
        require_matplotlib()
    facts = describe_machine()
    machine = machine_line(facts | {"libraries": {"onnxruntime": facts["libraries"]["onnxruntime"]}})
    latencies = measure_latencies(records, lambda name: echo(f"{name}: writing its graph", err=True))
    front = find_front(records, latencies)
    records.sort(key=lambda record: latencies[record.name])
    if as_json:
        for record in records:
            here = {"latency_ms": latencies[record.name], "on_front": record.name in front}
            click.echo(json.dumps(record.to_dict() | here))
    else:
        rows = [
            [record.name, f"{latencies[record.name]:.2f}", f"{record.figures.top1:.4f}", "*" * (record.name in front)]
            for record in records
        ]
        print_table(["model", "ms", "top-1", ""], rows, caption=f"{_FRONT}\n{machine}")
    if out is not None:
        write_atomically(Path(out), draw(records, latencies, front, machine))
        echo(f"wrote {out}", err=True)


_FRONT = (
    "Milliseconds for one image in one thread of ONNX Runtime, the fastest of many calls; graphs with random weights. "
    "No model is faster and better than one with a *."
)
_COLUMNS = ("model", "classes", "params M", "mult-adds M", "top-1", "top-5", "MB", "licence")
_TITLES = {family.name: family.title.partition(" ")[0] for family in FAMILIES.values()}


def _row(record: CatalogModel) -> list[str]:
    return [
        record.name,
        f"{record.num_classes:,}",
        f"{record.parameters / 1e6:.2f}",
        f"{record.multiply_adds / 1e6:.1f}",
        f"{record.figures.top1:.4f}",
        f"{record.figures.top5:.4f}",
        str(record.storage_mb),
        record.license,
    ]


def _caption(records: list[CatalogModel]) -> str:
    """Say whose the figures are: published and measured ones are never mixed without a word."""
    publishers = dict.fromkeys(record.published.publisher for record in records if record.published)
    lines = []
    if publishers:
        lines.append(f"Accuracy on ImageNet-1k as published by {' and '.join(publishers)}, each with its own resize.")
    for record in records:
        measured = record.measured
        if measured is not None:
            photographs = f"; it recognised {measured.photographs}" if measured.photographs else ""
            whose = f"measured by ghostzoo on {measured.data} ({measured.images:,} images)"
            lines.append(f"{record.name}: {whose}{photographs}.")
    return "\n".join(lines)


@click.command(cls=Command)
@click.argument("model")
@fetch_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(model: str, as_json: bool, **options: Any) -> None:
    """Show what is known of a model.

    MODEL is a name from 'ghostzoo list', a bundle folder, or the owner/name of a repository on the Hub.

    \b
    Examples:
      ghostzoo info GhostNet_x1_0
      ghostzoo info ./my-bundle --json
      ghostzoo info hf://owner/name@v1.0
    """
    from ..bundle.folder import Bundle
    from ..fetch.options import FetchOptions
    from ..fetch.resolver import look_up
    from .cards import bundle_card, catalog_card

    found = look_up(model, FetchOptions(**options))
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    else:
        print_facts(*(bundle_card(found) if isinstance(found, Bundle) else catalog_card(found)))

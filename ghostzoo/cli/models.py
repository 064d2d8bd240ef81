"""``ghostzoo list`` and ``ghostzoo info``."""

from __future__ import annotations

import json
from typing import Any

import click

from ..catalog import SORT_KEYS, CatalogModel, get_model, list_families, list_models
from ..network.families import FAMILIES
from .console import Command, echo, print_facts, print_prose, table_lines
from .options import fetch_options


@click.command("list", cls=Command)
@click.argument("pattern", default="*")
@click.option("--family", type=click.Choice(list_families()), help="Only models of this family.")
@click.option("--max-params", type=click.FloatRange(min=0), help="Millions of parameters at most.")
@click.option("--min-top1", type=click.FloatRange(0, 1), help="Top-1 accuracy on ImageNet-1k at least, such as 0.75.")
@click.option("--sort", type=click.Choice(list(SORT_KEYS)), help="In this order, and not family by family.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines: one object per model.")
def list_command(pattern: str, as_json: bool, **chosen: Any) -> None:
    """List the models of the catalog.

    PATTERN selects some of them by name; its wildcards are *, ? and [...].

    \b
    Examples:
      ghostzoo list
      ghostzoo list "*x1*"
      ghostzoo list --max-params 6 --min-top1 0.74 --sort params
    """
    from ..errors import nearest

    records = [get_model(name) for name in list_models(pattern, **chosen)]
    if not records:
        if not list_models(pattern):
            raise click.ClickException(f"No model matches {pattern!r}. {nearest(pattern, list_models())}")
        raise click.ClickException("No model has all that was asked for; leave an option out.")
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

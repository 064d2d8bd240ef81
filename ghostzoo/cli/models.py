"""``ghostzoo list`` and ``ghostzoo info``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .console import Command, print_facts, print_table
from .options import fetch_options

if TYPE_CHECKING:
    from ..catalog import CatalogModel


@click.command("list", cls=Command)
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines: one object per model.")
def list_command(pattern: str, as_json: bool) -> None:
    """List the models of the catalog.

    PATTERN selects some of them by name; its wildcards are *, ? and [...].

    \b
    Examples:
      ghostzoo list
      ghostzoo list "*x1*"
    """
    from ..catalog import get_model, list_models
    from ..errors import nearest

    records = [get_model(name) for name in list_models(pattern)]
    if not records:
        raise click.ClickException(f"No model matches {pattern!r}. {nearest(pattern, list_models())}")
    if as_json:
        for record in records:
            click.echo(json.dumps(record.to_dict()))
        return
    print_table(
        ["model", "classes", "params M", "mult-adds M", "top-1", "top-5", "MB"],
        [
            [
                record.name,
                f"{record.num_classes:,}",
                *_counts(record),
                f"{record.figures.top1:.4f}",
                f"{record.figures.top5:.4f}",
                str(record.figures.storage_mb),
            ]
            for record in records
        ],
        caption=_caption(records),
    )


def _counts(record: CatalogModel) -> tuple[str, str]:
    parameters, multiply_adds = f"{record.parameters / 1e6:.2f}", f"{record.multiply_adds / 1e6:.1f}"
    published = record.published
    if published is None:
        return parameters, multiply_adds
    beside = published.parameters_millions, published.multiply_adds_millions
    return f"{parameters} ({beside[0]:.2f})", f"{multiply_adds} ({beside[1]:.2f})"


def _caption(records: list[CatalogModel]) -> str:
    """Say whose the figures are: published and measured ones are never mixed without a word."""
    lines = []
    if any(record.published for record in records):
        lines.append(
            "Accuracy and size as published by PaddleClas; in parentheses its own counts, which include batch-norm."
        )
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

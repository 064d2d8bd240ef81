"""``ghostzoo list`` and ``ghostzoo info``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .console import Command, flatten, print_table
from .options import fetch_options

if TYPE_CHECKING:
    from ..catalog import CatalogModel


@click.command("list", cls=Command)
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_command(pattern: str, as_json: bool) -> None:
    """List the catalog's models whose name matches PATTERN (wildcards * ? [..]).

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
        ["model", "classes", "width", "params", "mult-adds", "top-1", "top-5", "MB"],
        [
            [
                record.name,
                f"{record.num_classes:,}",
                f"{record.width:g}",
                f"{record.figures.parameters_millions:.2f} M",
                f"{record.figures.multiply_adds_millions:.2f} M",
                f"{record.figures.top1:.4f}",
                f"{record.figures.top5:.4f}",
                str(record.figures.storage_mb),
            ]
            for record in records
        ],
        caption=_caption(records),
    )


def _caption(records: list[CatalogModel]) -> str:
    """Say whose the figures are: published and measured ones are never mixed without a word."""
    lines = ["Figures as published by PaddleClas."] if any(record.published for record in records) else []
    lines += [
        f"{record.name}: measured by ghostzoo on {record.measured.data} ({record.measured.images:,} images)."
        for record in records
        if record.measured
    ]
    return "\n".join(lines)


@click.command(cls=Command)
@click.argument("model")
@fetch_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def info(model: str, as_json: bool, **options: Any) -> None:
    """Show what is known of MODEL: a name of the catalog, a bundle folder, or owner/name of the Hub.

    \b
    Examples:
      ghostzoo info GhostNet_x1_0
      ghostzoo info ./my-bundle --json
      ghostzoo info hf://owner/name@v1.0
    """
    from ..fetch.options import FetchOptions
    from ..fetch.resolver import describe_model

    facts = describe_model(model, FetchOptions(**options))
    if as_json:
        click.echo(json.dumps(facts))
    else:
        print_table(["", model], flatten(facts))

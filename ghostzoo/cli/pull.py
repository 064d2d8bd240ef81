"""``ghostzoo pull``."""

from __future__ import annotations

import sys
from typing import Any

import click

from ..errors import GhostZooError
from .console import Command, echo, one_line, printable
from .options import fetch_options


@click.command(cls=Command)
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="All models of the catalog.")
@click.option("--force", is_flag=True, help="Fetch again what is in the cache already.")
@click.option("--accept", metavar="SHA256", help="Accept official weights with this hash in place of those first seen.")
@fetch_options
def pull(names: tuple[str, ...], everything: bool, force: bool, accept: str | None, **options: Any) -> None:
    """Fetch models into the cache, for use without a network.

    NAME is a name from 'ghostzoo list', or owner/name[@revision] on the Hub. A model that cannot be fetched is named at
    the end and makes the exit status 1; all others are fetched.

    \b
    Examples:
      ghostzoo pull GhostNet_x1_0
      ghostzoo pull hf://owner/name@v1.0
      ghostzoo pull --all --cache-dir ./models
    """
    from ..catalog import list_models
    from ..fetch.options import FetchOptions
    from ..fetch.resolver import fetch

    if bool(names) == everything:
        raise click.UsageError("Name the models to fetch, or give --all.")
    if accept is not None and (len(names) != 1 or "/" in names[0]):
        raise click.UsageError("--accept is for one model with official weights.")
    where = FetchOptions(**options)
    chosen = list_models() if everything else names
    width = max(map(len, chosen))
    errors = []
    for name in chosen:
        try:
            bundle = fetch(name, where, refresh=force, accept=accept)
            echo(f"{name:{width}}  {bundle.origin}  {printable(str(bundle.path))}")
            bundle.release()
        except GhostZooError as error:
            if len(names) == 1:
                raise
            errors.append(one_line(error))
    for message in errors:
        echo(f"Error: {message}", err=True)
    if errors:
        sys.exit(1)

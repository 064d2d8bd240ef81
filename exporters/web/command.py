"""``python -m exporters web``: the web page as a static site."""

from __future__ import annotations

from pathlib import Path

import click

from ghostzoo.catalog import DEFAULT_MODEL
from ghostzoo.cli.console import Command
from ghostzoo.fetch.resolver import fetch


@click.command(cls=Command, short_help="Write the web page as a static site.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@click.option(
    "--model",
    "models",
    multiple=True,
    default=[DEFAULT_MODEL],
    show_default=True,
    help="A name or a bundle folder; may be repeated, and the page starts with the first.",
)
@click.option("--overwrite", is_flag=True, help="Replace an older site.")
def web(out: Path, models: tuple[str, ...], overwrite: bool) -> None:
    """Write the web page as a static site, which runs the models in the visitor's browser.

    Any web server can serve the folder; nothing is sent anywhere. 'make wasm' or 'make web' comes first.

    \b
    Examples:
      python -m exporters web --out site
      python -m exporters web --out site --model GhostNet_x1_0 --model ./flowers
    """
    from exporters.web.site import write_site

    bundles = [fetch(model) for model in models]
    write_site(out, bundles, overwrite=overwrite)
    click.echo(f"Wrote {out} with {', '.join(bundle.name for bundle in bundles)}.", err=True)
    click.echo(f"To look at it: python -m http.server --directory {out} --bind 127.0.0.1", err=True)

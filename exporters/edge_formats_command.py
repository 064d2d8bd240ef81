"""``python -m exporters export-edge``: its options and its output."""

from __future__ import annotations

import click

from exporters.edge_formats import FORMATS, export_edge
from ghostzoo.cli.bars import steps
from ghostzoo.cli.console import Command, print_table

_STEPS = 3


@click.command("export-edge", cls=Command, short_help="Add files for ncnn, MNN or Paddle Inference to a bundle.")
@click.argument("bundle")
@click.option("--to", "forms", required=True, multiple=True, type=click.Choice(FORMATS), help="May be repeated.")
@click.option("--out", type=click.Path(), help="Write a copy of the bundle there.  [default: add to BUNDLE itself]")
@click.option("--overwrite", is_flag=True, help="Replace a bundle at --out.")
def export_edge_command(bundle: str, forms: tuple[str, ...], out: str | None, overwrite: bool) -> None:
    """Add the network in the format of ncnn, MNN, LiteRT or Paddle Inference to BUNDLE, a folder.

    The engine itself must reproduce the bundle's golden vectors; otherwise nothing is written. With --out, BUNDLE may
    also be the name of a model.

    \b
    Examples:
      python -m exporters export-edge GhostNet_x1_0 --to ncnn --to mnn
      python -m exporters export-edge GhostNet_x1_0 --to ncnn --out GhostNet_x1_0-edge
    """
    rows = []
    with steps(_STEPS * len(forms)) as on_step:
        for form in forms:
            result = export_edge(bundle, form, out=out, overwrite=overwrite, on_step=on_step)
            # The next format is added to the copy.
            bundle, out = (out, None) if out is not None else (bundle, None)
            megabytes = sum(result.files.values()) / 1e6
            relative = [f"{agreement.relative:.1e}" for agreement in result.agreements.values()]
            rows.append([form, f"{megabytes:.1f}", *relative, ", ".join(result.files)])
    print_table(["format", "MB", *result.agreements, "files"], rows, caption="differences from the golden vectors")
    click.echo(f"{result.bundle.name}: wrote {result.bundle.path}", err=True)

"""``ghostzoo build-engine``."""

from __future__ import annotations

from typing import Any

import click

from .console import Command
from .options import fetch_options, model_option


@click.command("build-engine", cls=Command)
@model_option
@fetch_options
@click.option("--target", "targets", multiple=True, help="GPU architecture, such as SM86; may be repeated.")
@click.option("--device", help="GPU of this machine to build for, without --target.  [default: cuda:0]")
@click.option("--precision", default="fp32", show_default=True, help="fp32 or fp16.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Build for this batch size only.")
@click.option("--max-batch-size", type=click.IntRange(min=1), help="Largest batch size.  [default: 8]")
@click.option("--library", help="tensorrt or tensorrt_rtx.  [default: the first that is installed]")
@click.option("--out", type=click.Path(), help="File to write.  [default: in the cache, for this machine's GPU]")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def build_engine(
    model: str | None,
    targets: tuple[str, ...],
    device: str | None,
    precision: str,
    batch_size: int | None,
    out: str | None,
    overwrite: bool,
    library: str | None,
    max_batch_size: int | None,
    **fetching: Any,
) -> None:
    """Build a TensorRT engine of a model.

    With tensorrt_rtx this needs no GPU: --target names the architectures that the engine is for. To use the file, pass
    engine_options={"engine_file": FILE}, and the precision and batch size that it was built for.

    \b
    Examples:
      ghostzoo build-engine --precision fp16
      ghostzoo build-engine --model GhostNet_x1_0 --precision fp16 --target SM86 \\
          --out GhostNet_x1_0-SM86.engine
    """
    from ..engines.base import EngineOptions
    from ..engines.tensorrt_plan import fill_cache, write_engine
    from ..fetch.options import FetchOptions
    from ..fetch.resolver import fetch

    if targets and out is None:
        raise click.UsageError("An engine for --target is for use elsewhere: give a file with --out.")
    given = {name: value for name, value in (("library", library), ("max_batch_size", max_batch_size)) if value}
    options = EngineOptions(device=device, precision=precision, batch_size=batch_size, engine_options=given)
    bundle = fetch(model, FetchOptions(**fetching))
    if out is None:
        fill_cache(bundle, options)
        click.echo(f"{bundle.name}: the engine is in the cache", err=True)
        return
    size = write_engine(bundle, options, out, targets=targets, overwrite=overwrite)
    click.echo(f"{bundle.name}: wrote {out} ({size / 1e6:.1f} MB)", err=True)

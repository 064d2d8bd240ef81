"""``ghostzoo convert``."""

from __future__ import annotations

from typing import Any

import click

from .console import ANY_PATH, Command


@click.command(cls=Command)
@click.option("--model", help="Catalog model that the weights belong to.  [e.g. GhostNet_x1_0]")
@click.option("--name", help="Name of a model of your own; its width is taken from the weights.")
@click.option("--weights", required=True, type=ANY_PATH, help="A .pdparams file; nothing in it is executed.")
@click.option("--out", required=True, type=ANY_PATH, help="The bundle folder to make.")
@click.option("--labels", type=ANY_PATH, help="File with a line '<id> <name>' a class.  [default: ImageNet's]")
@click.option(
    "--resize-short",
    type=click.IntRange(min=1),
    help="Shorter side in pixels.  [default: the model's, or crop size x 256 / 224]",
)
@click.option(
    "--crop-size",
    type=click.IntRange(min=1),
    help="Side of the network's input in pixels.  [default: the model's, or else 224]",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def convert(resize_short: int | None, crop_size: int | None, out: str, **options: Any) -> None:
    """Turn official weights into an ONNX bundle. Needs no Paddle.

    \b
    Examples:
      ghostzoo convert --model GhostNet_x1_0 --weights GhostNet_x1_0_pretrained.pdparams --out GhostNet_x1_0
      ghostzoo convert --name flowers --weights flowers.pdparams --labels flowers.txt \\
          --crop-size 160 --out flowers
    """
    from ..converter import convert as convert_weights
    from ..images.preprocessing import Preprocessing

    if options["model"] is None and options["name"] is None:
        raise click.UsageError("Give --model (a catalog model) or --name (a model of your own).")
    preprocessing = None
    if resize_short is not None or crop_size is not None:
        crop_size = crop_size or Preprocessing.crop_size
        resize_short = resize_short or round(crop_size * Preprocessing.resize_short / Preprocessing.crop_size)
        preprocessing = Preprocessing(resize_short=resize_short, crop_size=crop_size)
    bundle = convert_weights(out=out, preprocessing=preprocessing, **options)
    click.echo(f"{bundle.name}: {bundle.num_classes} classes, wrote {bundle.path}", err=True)

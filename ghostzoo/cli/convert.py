"""``ghostzoo convert``."""

from __future__ import annotations

from typing import Any

import click

from .console import ANY_PATH, Command


@click.command(cls=Command)
@click.option("--model", help="Catalog model that the weights belong to.  [e.g. GhostNet_x1_0]")
@click.option("--name", help="Name of a model of your own; its width is taken from the weights.")
@click.option("--weights", required=True, type=ANY_PATH, help="A .pdparams or .safetensors file; nothing in it is executed.")
@click.option("--prefix", help="Take the network whose keys begin so, of several in the file.  [e.g. Student.]")
@click.option("--out", required=True, type=ANY_PATH, help="The bundle folder to make.")
@click.option("--labels", type=ANY_PATH, help="File with a line '<id> <name>' a class.  [default: ImageNet's]")
@click.option("--resize-short", type=click.IntRange(min=1), help="Short side in pixels.  [default: the model's]")
@click.option("--crop-size", type=click.IntRange(min=1), help="Side of the network's input.  [default: the model's]")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def convert(resize_short: int | None, crop_size: int | None, out: str, **options: Any) -> None:
    """Turn official weights into an ONNX bundle. Needs no Paddle.

    \b
    Examples:
      ghostzoo convert --model GhostNet_x1_0 --weights GhostNet_x1_0_pretrained.pdparams --out GhostNet_x1_0
      ghostzoo convert --name flowers --weights flowers.pdparams --labels flowers.txt --out flowers
    """
    from ..converter import convert as convert_weights
    from ..images.preprocessing import Preprocessing

    if options["model"] is None and options["name"] is None:
        raise click.UsageError("Give --model (a catalog model) or --name (a model of your own).")
    sizes = {"resize_short": resize_short, "crop_size": crop_size}
    given: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    bundle = convert_weights(out=out, preprocessing=Preprocessing(**given) if given else None, **options)
    click.echo(f"{bundle.name}: {bundle.num_classes} classes, wrote {bundle.path}", err=True)

"""``ghostzoo convert``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from .console import ANY_PATH, Command


@click.command(cls=Command)
@click.option("--model", help="Catalog model that the weights are of, such as GhostNet_x1_0.")
@click.option("--name", help="Name for a model of your own; the weights tell its width.")
@click.option("--weights", required=True, type=ANY_PATH, help="A .pdparams or .safetensors file; nothing is executed.")
@click.option("--prefix", help="Take the network whose keys begin so, where the file holds several.")
@click.option("--out", required=True, type=ANY_PATH, help="Bundle folder to make.")
@click.option("--labels", type=ANY_PATH, help="Class names: a text or an inference.yml.  [default: ImageNet's]")
@click.option(
    "--resize-short",
    type=click.IntRange(min=1),
    help="Short side after resizing, in pixels.  [default: the model's, or crop size x 256 / 224]",
)
@click.option(
    "--crop-size", type=click.IntRange(min=1), help="Side of the input, in pixels.  [default: the model's, or 224]"
)
@click.option(
    "--multi-label", is_flag=True, help="For a model trained to find any number of classes: scores are sigmoids."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def convert(resize_short: int | None, crop_size: int | None, out: str, **options: Any) -> None:
    """Turn official weights into an ONNX bundle. Needs no Paddle.

    Labels are a text with a line '<id> <name>' for each class, or names alone in their order, or the inference.yml of
    PaddleX and PaddleClas, of which the preprocessing is taken too.

    \b
    Examples:
      ghostzoo convert --model GhostNet_x1_0 --out GhostNet_x1_0 \\
          --weights GhostNet_x1_0_pretrained.pdparams
      ghostzoo convert --name flowers --out flowers \\
          --weights flowers.pdparams --labels flowers.txt --crop-size 160
      ghostzoo convert --name tags --out tags --multi-label \\
          --weights tags.pdparams --labels tags.txt
      ghostzoo convert --name flowers --out flowers \\
          --weights best_model.pdparams --labels inference/inference.yml
    """
    from ..converter import convert as convert_weights
    from ..converter import default_preprocessing
    from ..images.preprocessing import Preprocessing

    if options["model"] is None and options["name"] is None:
        raise click.UsageError("Give --model (a catalog model) or --name (a model of your own).")
    preprocessing = None
    if resize_short is not None or crop_size is not None:
        usual = default_preprocessing(options["model"], options["labels"])
        crop_size = crop_size or usual.crop_size
        if resize_short is None:
            is_assumed = options["model"] is None and usual == Preprocessing()
            resize_short = round(crop_size * usual.resize_short / usual.crop_size) if is_assumed else usual.resize_short
        preprocessing = replace(usual, resize_short=resize_short, crop_size=crop_size)
    bundle = convert_weights(out=out, preprocessing=preprocessing, **options)
    click.echo(f"{bundle.name}: {bundle.num_classes:,} classes, wrote {bundle.path}", err=True)

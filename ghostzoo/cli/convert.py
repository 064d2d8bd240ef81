"""``ghostzoo convert``."""

from __future__ import annotations

from typing import Any

import click

from .console import ANY_PATH, Command

_FORMS = ("timm", "paddle")


@click.command(cls=Command)
@click.argument("given", metavar="[WEIGHTS]", required=False, type=ANY_PATH)
@click.option("--model", help="Catalog model that the weights are of, such as GhostNet_x1_0.")
@click.option("--name", help="Name for a model of your own; the weights tell its family and width.")
@click.option("--weights", type=ANY_PATH, help="A .pdparams or .safetensors file; the same as WEIGHTS.")
@click.option("--prefix", help="Take the network whose keys begin so, where the file holds several.")
@click.option("--out", required=True, type=ANY_PATH, help="Bundle folder to make.")
@click.option(
    "--labels",
    type=ANY_PATH,
    help="Class names: a text, an inference.yml or a config.json.  [default: the config.json beside, or ImageNet's]",
)
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
@click.option("--to", "form", type=click.Choice(_FORMS), help="Write GhostNet's weights in that form, and no bundle.")
@click.option("--overwrite", is_flag=True, help="Replace what exists.")
def convert(given: str | None, weights: str | None, form: str | None, **options: Any) -> None:
    """Turn PaddleClas's or timm's weights into an ONNX bundle. Needs neither Paddle nor PyTorch; nothing is executed.

    Family, width and number of classes are seen from the weights. Of what timm saved or its Hub repository holds, the
    config.json beside the weights tells name, labels and preprocessing. Labels are a text with a line '<id> <name>'
    for each class, or names alone in their order, or the inference.yml of PaddleX and PaddleClas, of which the
    preprocessing is taken too.

    \b
    Examples:
      ghostzoo convert GhostNet_x1_0_pretrained.pdparams --out GhostNet_x1_0 \\
          --model GhostNet_x1_0
      ghostzoo convert repghostnet/model.safetensors --out bundle
      ghostzoo convert flowers.safetensors --name flowers --out flowers \\
          --labels flowers.txt
      ghostzoo convert flowers.pdparams --name flowers --out flowers \\
          --labels inference/inference.yml
      ghostzoo convert tags.pdparams --name tags --out tags --multi-label \\
          --labels tags.txt
      ghostzoo convert GhostNet_x1_0_pretrained.pdparams --to timm \\
          --out ghostnet_100
      ghostzoo convert ghostnet_100/model.safetensors --to paddle \\
          --out ghostnet.pdparams
    """
    if (given is None) == (weights is None):
        raise click.UsageError("Give a weight file, once.")
    options["weights"] = given or weights
    if form is not None:
        from ..exchange import rewrite_weights

        used = ("weights", "out", "prefix", "labels", "overwrite")
        others = [name.replace("_", "-") for name, value in options.items() if value and name not in used]
        if others:
            raise click.UsageError(f"--to writes weights, not a bundle; leave out --{' and --'.join(others)}.")
        path = rewrite_weights(form=form, **{name: options[name] for name in used})
        click.echo(f"Wrote {path}", err=True)
        return
    from ..converter import convert as convert_weights
    from ..labels import find_timm_config

    if options["model"] is None and options["name"] is None and find_timm_config(options["weights"]) is None:
        raise click.UsageError("Give --model (a catalog model) or --name (a model of your own).")
    bundle = convert_weights(**options)
    click.echo(f"{bundle.name}: {bundle.num_classes:,} classes, wrote {bundle.path}", err=True)

"""``ghostzoo export-triton``."""

from __future__ import annotations

from typing import Any

import click

from .console import Command
from .options import fetch_options

_FETCHING = ("revision", "cache_dir", "offline", "endpoint", "token", "progress")


@click.command("export-triton", cls=Command, short_help="Write a model repository for Triton.")
@click.argument("model")
@fetch_options
@click.option("--out", type=click.Path(), required=True, help="The model repository; it may hold other models.")
@click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "openvino", "tensorrt"]),
    default="onnxruntime",
    show_default=True,
    help="What Triton runs it with.",
)
@click.option("--precision", default="fp32", show_default=True, help="fp32; fp16 or int8 where the bundle has them.")
@click.option("--gpu", is_flag=True, help="Run on the server's GPU, which tensorrt always does.")
@click.option("--plan", type=click.Path(), help="TensorRT's engine for the server's GPU, of 'build-engine'.")
@click.option("--max-batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images a call.")
@click.option(
    "--max-delay-ms",
    type=click.FloatRange(0, 60_000),
    default=5,
    show_default=True,
    help="Longest wait for a fuller batch.",
)
@click.option("--overwrite", is_flag=True, help="Replace the model of that name.")
def export_triton(model: str, **options: Any) -> None:
    """Write MODEL into a model repository of NVIDIA's Triton Inference Server.

    It gets a config.pbtxt with dynamic batching, its labels, and the network, which takes preprocessed pixels; how they
    are made is in the first lines of config.pbtxt.

    \b
    Examples:
      ghostzoo export-triton GhostNet_x1_0 --out repository
      ghostzoo export-triton ./flowers --out repository --backend openvino
      ghostzoo export-triton GhostNet_x1_0 --out repository \\
          --backend tensorrt --plan model.plan
    """
    from ..fetch.options import FetchOptions
    from ..fetch.resolver import fetch
    from ..triton import export_triton as export

    fetching = FetchOptions(**{name: options.pop(name) for name in _FETCHING})
    click.echo(f"Wrote {export(fetch(model, fetching), **options)}", err=True)

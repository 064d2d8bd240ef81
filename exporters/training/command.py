"""``python -m exporters train``: the options, and the recipe and run that they describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from exporters.recorded import RecordedCommand, command_line
from exporters.training.recipe import FINE_TUNING, KEPT_HEAD_RATE, NEW_HEAD_RATE, Recipe
from ghostzoo.catalog import get_model
from ghostzoo.errors import EngineUnavailableError
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.families import PADDLE_GHOSTNET
from ghostzoo.weights.params import read_weights

if TYPE_CHECKING:
    from exporters.training.run import RunOptions

_PATH = click.Path(path_type=Path)
_DEFAULT_MODEL = "GhostNet_x0_5"
_WARMUP_EPOCHS = 5.0
_HELD_OUT = 0.2
"""Share of each class that a run from initial weights holds out, to see whether it ruins them."""
_MAX_SHARE = 1000
_RUN_OPTIONS = (
    "out",
    "init",
    "teacher",
    "teacher_cache",
    "device",
    "threads",
    "workers",
    "checkpoint_minutes",
    "until",
    "resume",
    "quiet",
)


def _pair(form: str, second: type[int] | type[float]) -> Callable[[Any], tuple[int, float]]:
    """Return a parser of two numbers separated by a colon, such as ``SIZE:EPOCHS``."""

    def parse(value: Any) -> tuple[int, float]:
        left, _, right = str(value).partition(":")
        try:
            return int(left), second(right)
        except ValueError:
            raise click.BadParameter(f"{value!r} is not of the form {form}, two numbers.") from None

    return parse


def _source(value: Any) -> tuple[Path, float]:
    """Parse ``PATH[:SHARE]``."""
    if isinstance(value, tuple):  # click converts a default twice
        return value
    path, colon, share = str(value).rpartition(":")
    try:
        number = float(share) if colon else 1.0
    except ValueError:
        return Path(value), 1.0  # a path with a colon
    if not 0 < number <= _MAX_SHARE:
        raise click.BadParameter(f"{value!r}: the share must be above 0 and at most {_MAX_SHARE}.")
    return Path(path if colon else value), number


def _with_init(text: str, name: str, usual: object) -> dict[str, Any]:
    """Return the help of an option that has another default with ``--init``."""
    return {"help": f"{text}  [default: {usual}; with --init {FINE_TUNING[name]}]".strip(), "show_default": False}


@click.command(
    cls=RecordedCommand, context_settings={"show_default": True}, short_help="Train a GhostNet on your images."
)
@click.option(
    "--data",
    type=_PATH,
    required=True,
    help="A folder with one folder per class, a .tar of one, or a list file (.txt, one '<path> <index>' per line).",
)
@click.option(
    "--more",
    type=_source,
    metavar="PATH[:SHARE]",
    multiple=True,
    help="Further labelled images, whose classes join those of --data; an epoch shows SHARE times as many as there "
    "are. May be repeated.",
)
@click.option("--out", type=_PATH, required=True, help="The run's folder: checkpoint, metrics, weights, bundle.")
@click.option("--name", help="The bundle's name.  [default: the name of the run's folder]")
@click.option("--labels", type=_PATH, help="Class names for a list file: one '<index> <name>' per line.")
@click.option(
    "--val", "validation", type=_PATH, help="Images to validate on after each epoch, in any form that --data takes."
)
@click.option(
    "--val-split",
    "validation_split",
    type=click.FloatRange(0, 0.9),
    default=0.0,
    show_default=False,
    help=f"Without --val: the share of each class to hold out for validation.  [default: 0; with --init {_HELD_OUT}]",
)
@click.option(
    "--skip-unreadable",
    is_flag=True,
    help="Leave out unreadable images and list them; otherwise they are an error.",
)
@click.option("--model", help=f"Network, such as repghostnet_100.  [default: that of --init, or else {_DEFAULT_MODEL}]")
@click.option("--width", type=float, help="Any width of PaddleClas's GhostNet, instead of --model.")
@click.option(
    "--init",
    type=_PATH,
    help="Weights to start from, PaddleClas's or timm's, with milder defaults; a head for other classes is made anew.",
)
@click.option("--new-head", is_flag=True, help="With --init: re-initialise the head even if it fits the classes.")
@click.option("--freeze-backbone", is_flag=True, help="With --init: train the head only.")
@click.option(
    "--head-epochs",
    type=int,
    help="With --init: epochs in which only the head is trained, at first.  [default: a quarter of all]",
)
@click.option(
    "--backbone-rate",
    type=float,
    default=1.0,
    **_with_init("Share of the learning rate for all layers but the head.", "backbone_rate", 1),
)
@click.option(
    "--keep-statistics/--new-statistics",
    default=False,
    show_default=False,
    help="Keep the batch-norm statistics of --init (its default), or take those of the batches.",
)
@click.option(
    "--teacher",
    type=_PATH,
    help="Distil from this bundle or .pdparams file, or from any ONNX model that a .json file describes.",
)
@click.option(
    "--teacher-cache",
    type=_PATH,
    help="Folder that keeps a described teacher's outputs.  [default: teacher, in --out]",
)
@click.option(
    "--unlabelled",
    type=_source,
    metavar="PATH[:SHARE]",
    help="Unlabelled images to distil on as well; an epoch shows SHARE times as many as there are.",
)
@click.option("--distill-weight", type=float, default=1.0, help="Weight of the divergence from the teacher.")
@click.option("--distill-temperature", type=float, default=1.0)
@click.option(
    "--feature-weight",
    type=float,
    default=0.0,
    help="Weight of the angle between the embedding and the feature of a described teacher; 0 is off.",
)
@click.option(
    "--image-size",
    type=int,
    default=224,
    show_default=False,
    help="Side of the network's input in pixels.  [default: 224, or that of --init where it is known]",
)
@click.option(
    "--resize-short", type=int, help="Shorter side before the centre crop.  [default: image size x 256 / 224]"
)
@click.option(
    "--grow",
    type=_pair("SIZE:EPOCHS", int),
    metavar="SIZE:EPOCHS",
    multiple=True,
    help="First train at SIZE pixels for EPOCHS epochs; may be repeated.",
)
@click.option(
    "--epochs",
    type=int,
    default=360,
    **_with_init("Total, over all image sizes.", "epochs", 360),
)
@click.option(
    "--batch-size",
    type=int,
    default=512,
    **_with_init("Images per step, over all processes.", "batch_size", 512),
)
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adamw"]),
    default="sgd",
    **_with_init("", "optimizer", "sgd"),
)
@click.option(
    "--learning-rate",
    type=float,
    help="At the peak.  [default: 0.8 x batch size / 512; "
    f"with --init {NEW_HEAD_RATE}, or {KEPT_HEAD_RATE} if its head fits the classes]",
)
@click.option("--warmup-epochs", type=float, help="[default: 5, at most a tenth of the epochs]")
@click.option("--momentum", type=float, default=0.9)
@click.option("--nesterov", is_flag=True)
@click.option("--weight-decay", type=float, default=4e-5)
@click.option("--label-smoothing", type=float, default=0.1)
@click.option("--dropout", type=float, default=0.2)
@click.option(
    "--crop-scale",
    type=float,
    default=0.08,
    **_with_init("Smallest share of the area that a random crop keeps.", "crop_scale", 0.08),
)
@click.option(
    "--interpolation",
    type=click.Choice(["linear", "random"]),
    default="linear",
    help="How crops are resized; random: by any of OpenCV's methods, for images of varying sharpness.",
)
@click.option(
    "--sharpen", type=float, default=0.0, help="Sharpen crops by up to this strength, or blur them; 0 is off."
)
@click.option("--flip/--no-flip", default=True)
@click.option(
    "--rand-augment",
    type=_pair("OPERATIONS:MAGNITUDE", float),
    metavar="OPERATIONS:MAGNITUDE",
    help="RandAugment, such as 2:9.",
)
@click.option("--mixup", type=float, default=0.0, help="Alpha of mixup; 0 is off.")
@click.option("--cutmix", type=float, default=0.0, help="Alpha of cutmix; 0 is off.")
@click.option(
    "--ema",
    type=float,
    default=0.0,
    help="Decay per step of a moving average of the weights, which becomes the result; 0 is off.",
)
@click.option("--clip-gradients", type=float, default=0.0, help="Maximum norm of the gradients; 0 is off.")
@click.option(
    "--gate-rate",
    type=float,
    default=1.0,
    help="Share of the learning rate for squeeze-and-excitation layers, which large steps can kill.",
)
@click.option("--reset-gates", is_flag=True, help="With --init: re-initialise dead squeeze-and-excitation layers.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    help="auto: float32 on a CPU, mixed precision on a GPU.",
)
@click.option("--channels-last/--no-channels-last", default=True)
@click.option(
    "--compile/--no-compile",
    default=False,
    help="Compile the network: takes minutes at the start, and is up to twice as fast on a CPU.",
)
@click.option("--seed", type=int, default=0)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--threads", type=click.IntRange(min=1), help="Of the network.  [default: all usable CPUs]")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Threads that prepare images.  [default: same as --threads]"
)
@click.option("--cache-mb", type=click.IntRange(min=0), default=1024, help="Memory for decoded images.")
@click.option(
    "--until",
    type=int,
    metavar="EPOCH",
    help="Stop after this epoch of the schedule and write the weights.",
)
@click.option("--checkpoint-minutes", type=float, default=10.0, help="Time between checkpoints within an epoch.")
@click.option("--resume", is_flag=True, help="Continue the run in --out exactly from its checkpoint.")
@click.option("--quiet", is_flag=True)
@click.pass_context
def train(ctx: click.Context, /, **options: Any) -> None:
    """Train a GhostNet on your images, and write it as official weights and as a bundle.

    The defaults are the published recipe of PaddleClas's GhostNets, and with --init a mild one for fine-tuning. The
    result is the best epoch on the validation images, or without these the last. To continue a stopped run, repeat
    its command with --resume. Several GPUs: torchrun --nproc-per-node=N -m exporters train ...

    \b
    Examples:
      python -m exporters train --data photos --val-split 0.1 --out run --batch-size 64 --epochs 60
      python -m exporters train --data photos --out run --init GhostNet_x1_0_pretrained.pdparams
      python -m exporters train --data photos --out run --model repghostnet_100
      python -m exporters train --data photos --unlabelled more --teacher big-run/bundle --out run
    """
    if find_spec("torch") is None:
        raise EngineUnavailableError(
            "Training needs PyTorch; run \"pip install -e '.[train]'\" (README: Train has a smaller one without CUDA)."
        )
    from exporters.training.checkpoint import TrainingStoppedError
    from exporters.training.run import train_model

    _fill_in(ctx, options)
    recipe = _recipe(options)
    run_options = _run_options(options, command_line(ctx))
    try:
        train_model(recipe, run_options)
    except TrainingStoppedError as stopped:
        click.echo(str(stopped), err=True)
        ctx.exit(128 + stopped.signal)  # as a shell reports a signal


def _fill_in(ctx: click.Context, options: dict[str, Any]) -> None:
    """Fill in the defaults that depend on other options."""
    open_to_choice = {name for name in options if ctx.get_parameter_source(name) is ParameterSource.DEFAULT}
    init = options["init"]
    if init is not None:
        from exporters.training.pretrained import find_bundle

        defaults = dict(FINE_TUNING)
        bundle = find_bundle(init, read_weights(init))
        if bundle is not None and "resize_short" in open_to_choice:
            defaults["image_size"] = bundle.preprocessing.crop_size
            if "image_size" in open_to_choice:
                defaults["resize_short"] = bundle.preprocessing.resize_short
        if options["validation"] is None:
            defaults["validation_split"] = _HELD_OUT
        options.update({name: value for name, value in defaults.items() if name in open_to_choice})
    if options["resize_short"] is None:
        options["resize_short"] = round(options["image_size"] * 256 / 224)
    epochs = options["epochs"]
    if options["warmup_epochs"] is None:
        options["warmup_epochs"] = min(_WARMUP_EPOCHS, epochs / 10)
    if options["freeze_backbone"] and options["head_epochs"] is not None:
        raise click.UsageError("Give --freeze-backbone or --head-epochs, not both: a frozen backbone is never trained.")
    if options["freeze_backbone"]:
        options["head_epochs"] = epochs
    elif options["head_epochs"] is None:
        options["head_epochs"] = 0 if init is None else min(max(1, round(epochs / 4)), epochs - 1)


def _recipe(options: dict[str, Any]) -> Recipe:
    """Make a recipe of the options."""
    from exporters.training.distributed import resolve_precision

    chosen = {field.name: options[field.name] for field in fields(Recipe) if field.name in options}
    if options["model"] is not None and options["width"] is not None:
        raise click.UsageError("Give --model or --width, not both.")
    chosen["family"], chosen["width"] = choose_network(options["model"], options["width"], options["init"])
    chosen["precision"] = resolve_precision(options["precision"], options["device"])
    return Recipe(**chosen)


def choose_network(model: str | None, width: float | None, init: Path | None) -> tuple[str, float]:
    """Return family and width: those of the named model, else of the initial weights, else the default model's.

    Args:
        model: a name of the catalog, or of timm for any family and width, such as ``repghostnet_075``.
        width: another one, of the initial weights' family or else PaddleClas's GhostNet.
        init: the initial weights.

    Raises:
        UnknownModelError: there is no such model.
        WeightsError: ``init`` is needed and cannot be read.
    """
    if model is not None:
        try:
            named = Architecture.named(model.partition(".")[0])  # what follows tells timm's training
        except ValueError:
            return PADDLE_GHOSTNET.name, get_model(model).width
        return named.family.name, named.width
    if init is not None:
        found = read_weights(init).architecture
        return found.family.name, found.width if width is None else width
    return PADDLE_GHOSTNET.name, get_model(_DEFAULT_MODEL).width if width is None else width


def _run_options(options: dict[str, Any], typed: str) -> RunOptions:
    from exporters.training.data import DataSources
    from exporters.training.run import RunOptions

    out = options["out"]
    unlabelled, share = options["unlabelled"] or (None, 1.0)
    options = {**options, "unlabelled": unlabelled, "unlabelled_share": share}
    return RunOptions(
        sources=DataSources(**{field.name: options[field.name] for field in fields(DataSources)}),
        name=out.resolve().name if options["name"] is None else options["name"],
        command=typed,
        cache_bytes=options["cache_mb"] * 2**20,
        **{name: options[name] for name in _RUN_OPTIONS},
    )

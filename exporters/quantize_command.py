"""``python -m exporters quantize``: its options and its output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ghostzoo.cli.bars import steps
from ghostzoo.cli.console import Command, print_table
from ghostzoo.errors import EngineUnavailableError, OptionError

if TYPE_CHECKING:
    from exporters.quantized_bundle import GraphComparison, Quantized

_STEPS = 7


@click.command(cls=Command, short_help="Add a float16 or int8 graph to a bundle.")
@click.argument("bundle", type=click.Path())
@click.option("--to", "precision", required=True, type=click.Choice(["fp16", "int8"]), help="The precision to add.")
@click.option(
    "--engine",
    type=click.Choice(["onnxruntime", "litert"]),
    default="onnxruntime",
    show_default=True,
    help="Whose file: ONNX, or LiteRT's, which has int8 alone.",
)
@click.option("--calibration", required=True, type=click.Path(), help="Real images: a folder, .tar or .txt list file.")
@click.option("--images", "max_images", type=click.IntRange(min=2), default=512, show_default=True, help="At most.")
@click.option(
    "--data", type=click.Path(), help="Labelled images to measure accuracy on: folders per class, .tar, .txt."
)
@click.option("--limit", type=click.IntRange(min=1), help="Use at most this many of the labelled images.")
@click.option("--max-loss", type=float, help="Percentage points of top-1 that may be lost on --data.")
def quantize(
    bundle: str,
    precision: str,
    engine: str,
    calibration: str,
    max_images: int,
    data: str | None,
    limit: int | None,
    max_loss: float | None,
) -> None:
    """Add a float16 or int8 graph to BUNDLE, and its measurements to the manifest and the model card.

    int8 is calibrated on every second image; the others decide how much of the network computes in int8, and serve to
    measure the agreement with float32.

    \b
    Examples:
      python -m exporters quantize ./GhostNet_x1_0 --to fp16 --calibration photos
      python -m exporters quantize ./GhostNet_x1_0 --to int8 --calibration imagenet/train \\
          --data imagenet/val_list.txt --limit 5000 --max-loss 1.0
      python -m exporters quantize ./GhostNet_x1_0 --to int8 --engine litert --calibration photos
    """
    from ghostzoo.bundle.folder import Bundle
    from ghostzoo.evaluation.datasets import open_dataset
    from ghostzoo.evaluation.evaluate import open_labelled, take_evenly

    try:
        from exporters.quantized_bundle import quantize_bundle
    except ImportError as error:
        raise EngineUnavailableError(
            f"Quantising needs onnxruntime's quantisation tools ({error}); run 'pip install ml_dtypes', or use the "
            "environment of the runtime, which has a current onnx."
        ) from error

    original = Bundle.open(bundle)
    if data is not None and original.config.multi_label:
        raise OptionError(
            f"--data measures top-1, and {original.name} is a multi-label model; leave it out, and compare what "
            "'ghostzoo eval' measures with each --precision."
        )
    images = open_dataset(calibration, labelled=False)
    labelled = take_evenly(open_labelled(data, original.labels), limit) if data is not None else None
    with steps(_STEPS) as on_step:
        result = quantize_bundle(
            bundle,
            precision,
            images,
            engine=engine,
            labelled=labelled,
            max_images=max_images,
            max_loss=max_loss,
            on_step=on_step,
        )
    _print(result)


def _print(result: Quantized) -> None:
    rows = [["unseen", *_shown(result.unseen)]]
    if result.evaluated is not None:
        rows.append(["labelled", *_shown(result.evaluated)])
    caption = (
        f"{result.bundle.name} in {result.precision} for {result.engine}: {result.description}; "
        f"{result.size / 1e6:.2f} MB, {result.size_ratio:.3f} of float32."
    )
    columns = ["images", "count", "same top-1", "difference", "top-1", "float32", "lost"]
    print_table(columns, rows, caption=caption)
    click.echo(f"Wrote {result.bundle.path}", err=True)


def _shown(comparison: GraphComparison) -> list[str]:
    cells = [
        str(comparison.same_top1.total),
        f"{comparison.same_top1.value:.4f}",
        f"{comparison.largest_difference:.2e}",
    ]
    if comparison.top1 is None or comparison.float32_top1 is None:
        return [*cells, "-", "-", "-"]
    return [
        *cells,
        f"{comparison.top1.value:.4f}",
        f"{comparison.float32_top1.value:.4f}",
        f"{comparison.lost_points:.2f} points",
    ]

"""``ghostzoo predict``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImageError
from .console import Command, progress
from .options import engine_options, fetch_options, image_options, model_option
from .unreadable import report_damaged, report_unreadable

if TYPE_CHECKING:
    from .results import ResultWriter


@click.command(cls=Command)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@model_option
@fetch_options
@engine_options
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Classes for each image.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images a call of the engine.  [default: 4]")
@image_options
@click.option("--json", "output", flag_value="json", help="JSON lines on stdout.")
@click.option("--csv", "output", flag_value="csv", help="CSV on stdout; names like formulas get a ' in front.")
def predict(
    images: tuple[str, ...], model: str | None, top_k: int, batch_size: int | None, output: str | None, **options: Any
) -> None:
    """Classify IMAGEs: files, folders, glob patterns, or http(s) URLs.

    Unreadable images are named at the end and make the exit status 1; all others are classified.

    \b
    Examples:
      ghostzoo predict cat.jpg
      ghostzoo predict cat.jpg --model GhostNet_x1_0
      ghostzoo predict photos/ --model GhostNet_x1_0 --json > results.jsonl
      ghostzoo predict "photos/**/*.jpg" --model GhostNet_x1_0 --top-k 1 --csv
    """
    from ..images.decode import describe
    from ..images.inputs import expand
    from ..loading import load

    skipped: list[Any] = []
    sources = list(expand(images, on_skip=skipped.append))
    failed: list[ImageError] = []
    damaged: list[str] = []
    with load(model, **options) as classifier, progress(len(sources), "classifying") as advance:
        writer = _writer(output)
        results = classifier.predict(sources, top_k, batch_size, on_error="return")
        for source, result in zip(sources, results, strict=True):
            if isinstance(result, ImageError):
                failed.append(result)
                writer.write_error(result)
            else:
                writer.write(describe(source), result)
                if result[0].damaged:
                    damaged.append(describe(source))
            advance()
    report_damaged(damaged)
    report_unreadable(failed, len(sources), len(skipped))


def _writer(output: str | None) -> ResultWriter:
    from .results import CsvWriter, JsonLinesWriter, TableWriter

    kinds: dict[str | None, type[ResultWriter]] = {"json": JsonLinesWriter, "csv": CsvWriter}
    return kinds.get(output, TableWriter)(sys.stdout)

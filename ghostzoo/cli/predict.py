"""``ghostzoo predict``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImageError
from .bars import progress
from .console import Command, terminal_width
from .options import (
    BUNDLED_MODEL,
    confidence_options,
    engine_options,
    fetch_options,
    image_options,
    model_option,
    name_options,
)
from .results import report_damaged, report_unreadable

if TYPE_CHECKING:
    from .results import ResultWriter

_STDIN = ("-", "/dev/stdin")


@click.command(cls=Command, short_help="Classify images.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@model_option
@fetch_options
@engine_options
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="Classes per image.  [default: 5, or as many as fit in a line of the terminal; multi-label: all]",
)
@click.option(
    "--min-score", type=click.FloatRange(0, 1), help="Lowest score of a class.  [default: 0; multi-label: 0.5]"
)
@confidence_options
@name_options
@click.option("--batch-size", type=click.IntRange(min=1), help="Images per engine call.  [default: 4]")
@image_options
@click.option("--json", "output", flag_value="json", help="Print JSON Lines.")
@click.option("--csv", "output", flag_value="csv", help="Print CSV; names that look like formulas get a ' in front.")
def predict(
    images: tuple[str, ...],
    model: str | None,
    top_k: int | None,
    min_score: float | None,
    calibrated: bool,
    coverage: float | None,
    unknown_below: float | None,
    group: tuple[str, ...] | None,
    batch_size: int | None,
    output: str | None,
    **options: Any,
) -> None:
    """Classify IMAGEs: files, folders, glob patterns, http(s) URLs, or - for stdin.

    What is named twice is classified once. Unreadable images are named at the end and make the exit status 1; all
    others are classified.

    \b
    Examples:
      ghostzoo predict cat.jpg
      ghostzoo predict cat.jpg --model GhostNet_x1_0
      ghostzoo predict cat.jpg --model GhostNet_x1_0 --group basic --lang zh
      ghostzoo predict photos/ --model GhostNet_x1_0 --json > results.jsonl
      ghostzoo predict "photos/**/*.jpg" --model GhostNet_x1_0 --top-k 1 --csv
      curl -s https://example.com/cat.jpg | ghostzoo predict -
    """
    from ..images.decode import describe
    from ..images.inputs import distinct, expand
    from ..loading import announce_bundled, load

    skipped: list[Any] = []
    named = [sys.stdin.buffer if image in _STDIN else image for image in images]
    sources = list(distinct(expand(named, on_skip=skipped.append)))
    failed: list[ImageError] = []
    damaged: list[str] = []
    with load(BUNDLED_MODEL if model is None else model, **options) as classifier:
        writer = _writer(output, sources, top_k)
        results = classifier.predict(
            sources,
            top_k,
            batch_size,
            min_score=min_score,
            calibrated=calibrated,
            coverage=coverage,
            unknown_below=unknown_below,
            group=group,
            on_error="return",
        )
        with progress(len(sources), "classifying", streaming=True) as advance:
            for source, result in zip(sources, results, strict=True):
                if isinstance(result, ImageError):
                    failed.append(result)
                    writer.write_error(result)
                else:
                    if model is None:
                        announce_bundled()
                    writer.write(describe(source), result)
                    if result and result[0].damaged:
                        damaged.append(describe(source))
                advance()
    report_damaged(damaged)
    report_unreadable(failed, len(sources), len(skipped))


def _writer(output: str | None, sources: Sequence[Any], top_k: int | None) -> ResultWriter:
    from ..images.decode import describe
    from .results import CsvWriter, JsonLinesWriter, LineWriter, TableWriter

    if output is not None:
        return {"json": JsonLinesWriter, "csv": CsvWriter}[output](sys.stdout)
    if len(sources) == 1:
        return TableWriter(sys.stdout)
    fits_terminal = top_k is None and sys.stdout.isatty()
    return LineWriter(sys.stdout, map(describe, sources), terminal_width() if fits_terminal else None)

"""``ghostzoo predict``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImageError
from .console import Command, progress
from .options import engine_options, fetch_options, model_option
from .unreadable import report_unreadable

if TYPE_CHECKING:
    from .results import ResultWriter

_STDIN = ("-", "/dev/stdin")


@click.command(cls=Command)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@model_option
@fetch_options
@engine_options
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Classes for each image.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images a call of the engine.  [default: 4]")
@click.option("--json", "output", flag_value="json", help="JSON lines on stdout.")
@click.option("--csv", "output", flag_value="csv", help="CSV on stdout; names like formulas get a ' in front.")
def predict(
    images: tuple[str, ...], model: str | None, top_k: int, batch_size: int | None, output: str | None, **options: Any
) -> None:
    """Classify IMAGEs: files, folders, glob patterns, http(s) URLs, or - for stdin.

    What is named twice is classified once. Unreadable images are named at the end and make the exit status 1; all
    others are classified.

    \b
    Examples:
      ghostzoo predict cat.jpg
      ghostzoo predict cat.jpg --model GhostNet_x1_0
      ghostzoo predict photos/ --model GhostNet_x1_0 --json > results.jsonl
      ghostzoo predict "photos/**/*.jpg" --model GhostNet_x1_0 --top-k 1 --csv
      curl -s https://example.com/cat.jpg | ghostzoo predict -
    """
    from ..images.decode import describe
    from ..images.inputs import distinct, expand
    from ..loading import load

    skipped: list[Any] = []
    named = [sys.stdin.buffer if image in _STDIN else image for image in images]
    sources = list(distinct(expand(named, on_skip=skipped.append)))
    failed: list[ImageError] = []
    with load(model, **options) as classifier, progress(len(sources), "classifying") as advance:
        writer = _writer(output)
        results = classifier.predict(sources, top_k, batch_size, on_error="return")
        for source, result in zip(sources, results, strict=True):
            if isinstance(result, ImageError):
                failed.append(result)
                writer.write_error(result)
            else:
                writer.write(describe(source), result)
            advance()
    report_unreadable(failed, len(sources), len(skipped))


def _writer(output: str | None) -> ResultWriter:
    from .results import CsvWriter, JsonLinesWriter, TableWriter

    kinds: dict[str | None, type[ResultWriter]] = {"json": JsonLinesWriter, "csv": CsvWriter}
    return kinds.get(output, TableWriter)(sys.stdout)

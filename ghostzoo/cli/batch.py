"""``ghostzoo batch``."""

from __future__ import annotations

import json
from typing import Any

import click

from .bars import rate
from .console import Command, echo
from .options import (
    BUNDLED_MODEL,
    confidence_options,
    engine_options,
    fetch_options,
    image_options,
    model_option,
    name_options,
)


@click.command(cls=Command, short_help="Classify pictures of any storage into a table.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--out", required=True, help="Folder for the results, ending in .parquet or .jsonl; may be a URL.")
@model_option
@fetch_options
@engine_options
@click.option("--top-k", type=click.IntRange(min=1), help="Classes per image.  [default: 5; multi-label: all]")
@click.option(
    "--min-score", type=click.FloatRange(0, 1), help="Lowest score of a class.  [default: 0; multi-label: 0.5]"
)
@confidence_options
@name_options
@click.option("--embeddings", is_flag=True, help="Write each picture's 1280 numbers too.")
@click.option("--column", help="Column of a table with the pictures: bytes, paths or URLs.")
@click.option("--resume", is_flag=True, help="Go on with results that are there.")
@click.option("--overwrite", is_flag=True, help="Replace results that are there.")
@click.option("--rows-per-part", type=click.IntRange(min=1), default=10_000, show_default=True, help="Rows of a part.")
@click.option(
    "--readers", type=click.IntRange(min=1), default=16, show_default=True, help="Pictures fetched at the same time."
)
@click.option("--workers", type=click.IntRange(min=1), help="Threads that classify.  [default: as the CPUs allow]")
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Images per engine call.")
@click.option("--ray", metavar="ADDRESS", help="Let this Ray cluster do it; 'auto' is the one of this machine.")
@image_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def batch(sources: tuple[str, ...], model: str | None, as_json: bool, **options: Any) -> None:
    """Classify all pictures of SOURCEs and write a row for each: one that cannot be read has its error.

    A SOURCE is a picture, a folder, a glob, a WebDataset .tar, a .parquet or .arrow table, or a .txt list of paths, on
    this machine or behind a URL that fsspec knows, such as s3://, gs:// or hf://. The results are a folder of parts,
    which pandas, DuckDB, Polars and Spark read as one table; a run that was stopped goes on with --resume.

    \b
    Examples:
      ghostzoo batch photos/ --out results.parquet
      ghostzoo batch s3://bucket/pictures --out results.parquet --resume
      ghostzoo batch shards/*.tar --out results.jsonl --model GhostNet_x1_0
    """
    from ..bulk.run import batch as run
    from ..bulk.sources import count_local

    def count() -> int | None:
        return None if options["resume"] else count_local(sources)

    with rate("classifying", count) as advance:
        done = run(list(sources), model=BUNDLED_MODEL if model is None else model, on_picture=advance, **options)
    if as_json:
        click.echo(json.dumps({**vars(done), "images_per_second": round(done.images_per_second, 1)}))
        return
    new = done.pictures - done.done_before
    earlier = f", {done.done_before:,} of them before" if done.done_before else ""
    pictures = "1 picture" if done.pictures == 1 else f"{done.pictures:,} pictures"
    echo(
        f"{pictures} in {done.out}{earlier}, {done.unreadable:,} unreadable; {new:,} in "
        f"{done.seconds:,.1f} s, {done.images_per_second:,.0f} a second"
    )

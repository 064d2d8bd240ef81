"""``ghostzoo fit``."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from .bars import progress
from .console import ANY_PATH, Command, echo, format_size, percent, print_prose, print_table
from .options import engine_options, fetch_options, image_options, model_option
from .results import report_unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..fitting.fit import Fit

_WHOLE_MATRIX = 12
"""So many classes fit beside each other."""
_CONFUSIONS = 10
_DOUBTS = 5


@click.command(cls=Command, short_help="Make a model of your own classes.")
@click.argument("data")
@model_option
@click.option("--out", type=ANY_PATH, help="Bundle folder to make.  [default with --add: that bundle itself]")
@click.option("--add", "add_to", type=ANY_PATH, help="Add these pictures to a bundle that 'fit' made before.")
@click.option("--name", help="The bundle's name.  [default: that of its folder]")
@click.option("--keep/--no-keep", default=True, help="Keep embeddings for a later --add: 2.6 kB per picture.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@fetch_options
@engine_options
@image_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def fit(data: str, out: str | None, add_to: str | None, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Make a model of your own classes from DATA, a folder with a folder of pictures for each class.

    The features are those of --model; only the last layer is new, so it takes seconds. The pictures themselves are not
    in the bundle. Unreadable pictures are listed and make the exit status 1.

    \b
    Examples:
      ghostzoo fit photos/ --model GhostNet_x1_0 --out mine
      ghostzoo fit more-photos/ --add mine
      ghostzoo predict cat.jpg --model ./mine
    """
    from ..fitting.fit import fit as fit_pictures

    if out is None:
        if add_to is None:
            raise click.UsageError("Give --out, the bundle folder to make.")
        out, overwrite = add_to, True
    with ExitStack() as stack:

        def on_start(count: int) -> Callable[[], object]:
            return stack.enter_context(progress(count, "reading"))

        done = fit_pictures(data, out, add_to=add_to, overwrite=overwrite, on_start=on_start, **options)
    if as_json:
        click.echo(json.dumps(done.to_dict()))
    else:
        _print(done)
    report_unreadable(list(done.unreadable), int(done.confusion.sum()) + len(done.unreadable), 0)


def _print(done: Fit) -> None:
    if len(done.classes) <= _WHOLE_MATRIX:
        rows = [
            [name, *map(str, row.tolist()), percent(row[index] / row.sum())]
            for index, (name, row) in enumerate(zip(done.classes, done.confusion, strict=True))
        ]
        print_table(["taken for:", *done.classes, "right"], rows)
    else:
        _print_confusions(done)
    low, high = done.accuracy.interval
    echo("")
    print_prose(
        f"Accuracy {done.accuracy.value:.4f} in cross-validation, 95 % interval {low:.4f} to {high:.4f}; "
        f"{done.accuracy.total:,} pictures of {len(done.classes)} classes, {done.seconds:.1f} s"
    )
    for warning in done.warnings:
        print_prose(f"Note: {warning}", indent="  ")
    if done.unsure:
        print_prose("Least sure of:")
        for doubt in done.unsure[:_DOUBTS]:
            print_prose(
                f"  {doubt.name}: {doubt.predicted} {doubt.score:.2f}"
                + ("" if doubt.predicted == doubt.label else f", {doubt.label} {doubt.own_score:.2f}")
            )
    size = f", with {format_size(done.kept_bytes)} for a later --add" if done.kept_bytes else ""
    click.echo(f"{done.bundle.name}: wrote {done.bundle.path}{size}", err=True)


def _print_confusions(done: Fit) -> None:
    import numpy as np

    wrong = done.confusion.copy()
    np.fill_diagonal(wrong, 0)
    places = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    rows = [
        [done.classes[row], done.classes[column], str(wrong[row, column])]
        for row, column in zip(*np.unravel_index(places, wrong.shape), strict=True)
        if wrong[row, column]
    ]
    if rows:
        print_table(["class", "taken for", "pictures"], rows)

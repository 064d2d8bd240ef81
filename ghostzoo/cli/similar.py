"""``ghostzoo index``, ``search`` and ``dedup``."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImageError
from .bars import progress
from .console import ANY_PATH, Command, echo, format_size, print_table, printable
from .options import BUNDLED_MODEL, engine_options, fetch_options, image_options, model_option
from .results import report_unreadable

if TYPE_CHECKING:
    from ..classifier import Classifier

_DECIMALS = 4
_json_lines = click.option("--json", "as_json", is_flag=True, help="Print JSON Lines.")


@click.command(cls=Command, short_help="Keep the embeddings of a folder in a file, to search it.")
@click.argument("photos")
@click.option("--out", type=ANY_PATH, required=True, help="File to make or bring up to date.")
@model_option
@click.option("--overwrite", is_flag=True, help="Replace an index of another model or folder, or a damaged one.")
@fetch_options
@engine_options
@image_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def index(photos: str, out: str, model: str | None, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Write the embeddings of all pictures in the folder PHOTOS and below into a file, or bring it up to date.

    Pictures that have not changed are not read again; those that are gone are dropped. Unreadable pictures are listed
    and make the exit status 1.

    \b
    Examples:
      ghostzoo index photos/ --out photos.index
      ghostzoo search cat.jpg --index photos.index
    """
    from ..similarity.folders import build_index

    with ExitStack() as stack:
        classifier = _load(stack, model, options)
        done = build_index(classifier, photos, out, overwrite=overwrite, on_start=_bar(stack))
    if as_json:
        click.echo(json.dumps(done.to_dict()))
    else:
        size = format_size(done.index.path.stat().st_size)
        echo(printable(f"{out}: {len(done.index):,} pictures, {done.new:,} new, {done.dropped:,} dropped; {size}"))
    report_unreadable(done.unreadable, len(done.index) + len(done.unreadable), 0)


@click.command(cls=Command, short_help="Find the pictures most similar to one.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--index", "path", type=ANY_PATH, required=True, help="What 'ghostzoo index' wrote.")
@click.option("-k", "count", type=click.IntRange(min=1), default=5, show_default=True, help="Pictures for each IMAGE.")
@click.option("--approximate", is_flag=True, help="Faster in a large index: may miss some; needs ghostzoo[search].")
@model_option
@fetch_options
@engine_options
@image_options
@_json_lines
def search(
    images: tuple[str, ...],
    path: str,
    count: int,
    approximate: bool,
    model: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the pictures of an index that are most similar to each IMAGE: a file, URL, folder or glob pattern.

    The score is the cosine of the embeddings, 1 for the same picture. The model has to be that of the index.

    \b
    Examples:
      ghostzoo search cat.jpg --index photos.index
      ghostzoo search new/ --index photos.index -k 1 --json
    """
    from ..images.decode import describe
    from ..images.inputs import distinct, expand
    from ..similarity.index import Index

    failed: list[ImageError] = []
    sources = list(distinct(expand(list(images))))
    opened = Index.open(path)
    with ExitStack() as stack:
        classifier = _load(stack, model, options)
        for number, source in enumerate(sources):
            try:
                found = classifier.similar(source, opened, count, approximate=approximate)
            except ImageError as error:
                failed.append(error)
                if as_json:
                    click.echo(json.dumps({"image": error.source, "error": error.reason}))
                continue
            if as_json:
                line = {"image": describe(source), "matches": [match.to_dict() for match in found]}
                click.echo(json.dumps(line))
                continue
            if len(sources) > 1:
                echo(("\n" if number else "") + click.style(printable(describe(source)), bold=True))
            print_table(["score", "picture"], [[f"{match.score:.{_DECIMALS}f}", str(match.path)] for match in found])
    report_unreadable(failed, len(sources), 0)


@click.command(cls=Command, short_help="Find pictures that are nearly the same.")
@click.argument("photos")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Lowest cosine of two embeddings.  [default: 0.9]")
@click.option("--out", type=ANY_PATH, help="Page of HTML to write, with thumbnails.")
@click.option("--index", "path", type=ANY_PATH, help="Index of PHOTOS to use and bring up to date.")
@model_option
@fetch_options
@engine_options
@image_options
@_json_lines
def dedup(
    photos: str,
    threshold: float | None,
    out: str | None,
    path: str | None,
    model: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find pictures in the folder PHOTOS and below that are nearly the same: rescaled, recompressed, slightly cropped.

    No file is changed or removed. The largest file of each group comes first. Unreadable pictures are listed and make
    the exit status 1.

    \b
    Examples:
      ghostzoo dedup photos/
      ghostzoo dedup photos/ --out report.html
    """
    from ..similarity.duplicates import THRESHOLD
    from ..similarity.folders import find_duplicates

    least = THRESHOLD if threshold is None else threshold
    with ExitStack() as stack:
        classifier = _load(stack, model, options)
        done = find_duplicates(classifier, photos, threshold=least, index=path, on_start=_bar(stack))
        if out is not None:
            done.write_report(out, classifier)
    for number, group in enumerate(done.groups, 1):
        paths = [str(done.folder / name) for name in group]
        if as_json:
            click.echo(json.dumps({"pictures": paths}))
        else:
            echo(click.style(f"Group {number}", bold=True))
            for each in paths:
                echo(f"  {printable(each)}")
    if not as_json:
        groups = "1 group" if len(done.groups) == 1 else f"{len(done.groups):,} groups"
        echo(f"{groups} of pictures that are nearly the same, among {done.pictures:,}")
    if out is not None:
        click.echo(f"Wrote {printable(out)}", err=True)
    report_unreadable(done.unreadable, done.pictures + len(done.unreadable), 0)


def _load(stack: ExitStack, model: str | None, options: dict[str, Any]) -> Classifier:
    from ..loading import announce_bundled, load

    classifier = stack.enter_context(load(BUNDLED_MODEL if model is None else model, **options))
    if model is None:
        announce_bundled()
    return classifier


def _bar(stack: ExitStack) -> Callable[[int], Callable[[], object]]:
    return lambda count: stack.enter_context(progress(count, "reading"))

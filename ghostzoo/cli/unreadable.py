"""What a command says at its end of images that it could not read."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ..errors import ImageError
from .console import one_line, printable


def report_damaged(names: Sequence[str]) -> None:
    """Name on stderr the damaged images that were read leniently."""
    for name in names:
        click.echo(f"Damaged, read as far as possible: {printable(name)}", err=True)


def report_unreadable(failed: Sequence[ImageError], total: int, skipped: int) -> None:
    """Name the unreadable images and passed-over files on stderr; exit with 1 if an image could not be read."""
    if skipped:
        click.echo(f"Passed over {skipped} other file{'s' if skipped > 1 else ''} in the folders.", err=True)
    for error in failed:
        click.echo(f"Error: {one_line(error)}", err=True)
    if failed:
        if total > 1:
            click.echo(f"{len(failed)} of {total} images could not be read.", err=True)
        sys.exit(1)

"""What people see in a terminal: tables and sentences on stdout, an error as one line on stderr."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import PurePath
from typing import Any
from unicodedata import category

import click

from ..errors import GhostZooError

ANY_PATH = click.Path(readable=False)
"""A path as an option. What opens it says what is wrong with it; click would call an unreadable file wrong usage."""

_DEBUG = "ghostzoo.debug"
_NUMBER = re.compile(r"-?|[\d.,]+( ?(%|[kMG]?B|M|ms|s))?")
"""A cell that stands flush right."""


class Command(click.Command):
    """A command whose deliberate errors are one line on stderr and exit status 1, unless ``--debug`` is given."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                callback=lambda context, _, value: context.meta.update({_DEBUG: value}),
                help="Show the traceback of an error.",
            )
        )

    def invoke(self, ctx: click.Context) -> Any:
        os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # what it warns of, the errors say in their one line
        if isinstance(sys.stdout, io.TextIOWrapper):  # not every terminal and pipe takes every character
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a full disk is an error of the command, not of the interpreter's end
        except GhostZooError as error:
            if ctx.meta.get(_DEBUG):
                raise
            raise click.ClickException(one_line(error)) from error
        except OSError as error:
            if ctx.meta.get(_DEBUG) or error.errno == errno.EPIPE:  # click ends quietly when nobody reads on
                raise
            _give_up_stdout()
            place = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{place}{error.strerror or error}.") from error
        return result


def _give_up_stdout() -> None:
    """Close stdout where nothing can be written to it, or Python would complain of it once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            sys.stdout.close()


class LazyGroup(click.Group):
    """A group of such commands, each imported when it is called.

    Args:
        commands: name -> ``module:attribute``, in the order of the help.
    """

    command_class = Command

    def __init__(self, *arguments: Any, commands: Mapping[str, str], **options: Any) -> None:
        options.setdefault("context_settings", {"help_option_names": ["-h", "--help"], "max_content_width": 100})
        super().__init__(*arguments, **options)
        self._places = dict(commands)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._places:
            return None
        module, _, attribute = self._places[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


def printable(text: str) -> str:
    """Escape what would steer a terminal, or cannot be encoded: names of files and classes may hold anything."""
    return "".join(
        character.encode("unicode_escape").decode() if category(character) in ("Cc", "Cs") else character
        for character in text
    )


def one_line(error: Exception) -> str:
    """Return the message of ``error`` as a single printable line."""
    return printable(" ".join(str(error).split()))


def echo(text: str, *, err: bool = False) -> None:
    """Print a line, above the progress bars where there are any."""
    click.echo(text, sys.stderr if err else sys.stdout)  # by default click would go round the live display


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str | None = None) -> None:
    """Print a table, and below it a caption; no cell is folded or cut, however narrow the terminal is."""
    head, *body = table_lines(columns, rows)
    echo(click.style(head, bold=True))
    for line in body:
        echo(line)
    if caption:
        print_prose(caption)


def table_lines(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out a table, the heads first; columns of numbers are flush right, and no line ends in spaces."""
    from rich.cells import cell_len

    body = [[printable(cell) for cell in row] for row in rows]
    table = [list(columns), *body]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    numeric = [bool(column) and all(map(_NUMBER.fullmatch, column)) for column in zip(*body, strict=True)]
    lines = []
    for row in table:
        cells = []
        for cell, width, is_number in zip(row, widths, numeric or [False] * len(columns), strict=True):
            space = " " * (width - cell_len(cell))
            cells.append(space + cell if is_number else cell + space)
        lines.append("  ".join(cells).rstrip())
    return lines


def print_facts(title: str, facts: Iterable[tuple[str, object]]) -> None:
    """Print a title, and labels with a text beside each: prose as by ``print_prose``, one word or a path as it is."""
    from rich.cells import cell_len

    rows = [(printable(label), fact) for label, fact in facts]
    indent = max(cell_len(label) for label, _ in rows) + 2
    echo(click.style(printable(title), bold=True))
    for label, fact in rows:
        text = printable(str(fact))
        line = label + " " * (indent - cell_len(label)) + text
        if isinstance(fact, PurePath) or " " not in text:
            echo(line)
        else:
            print_prose(line, indent=" " * indent)


def print_prose(text: str, indent: str = "", *, err: bool = False) -> None:
    """Print sentences: on a terminal in lines that fit, broken between words only, elsewhere as they are.

    Args:
        text: each of its lines begins a new one.
        indent: before all lines but the first.
        err: on stderr.
    """
    width = terminal_width() if (sys.stderr if err else sys.stdout).isatty() else sys.maxsize
    for line in text.splitlines():
        echo(
            textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False),
            err=err,
        )


def percent(share: float) -> str:
    """Write a fraction of 1 as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def terminal_width() -> int:
    """Return the columns of the terminal; 80 where it does not tell."""
    return shutil.get_terminal_size().columns


def format_size(count: int) -> str:
    """Write a number of bytes for people, in powers of 1,000."""
    from rich.filesize import decimal

    return decimal(count)

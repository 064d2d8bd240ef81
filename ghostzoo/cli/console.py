"""What people see in a terminal: tables and sentences on stdout, an error as one line on stderr."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import PurePath
from typing import Any
from unicodedata import category

import click

from .._utils.urls import why_no_path
from ..errors import GhostZooError, nearest


class _LocalPath(click.Path):
    """A path, and no URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        reason = why_no_path(os.fsdecode(value), "a path on this machine")
        if reason is not None:
            self.fail(f"It is {reason}.", param, ctx)
        return super().convert(value, param, ctx)


ANY_PATH = _LocalPath(readable=False)
"""A path as an option. What opens it says what is wrong with it; click would call an unreadable file wrong usage."""

_DEBUG = "ghostzoo.debug"
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the signal's number."""
_HELP_COLUMNS = 100
"""At most, on wider terminals too: longer lines are hard to read."""
_NUMBER = re.compile(r"-?|[\d.,]+( ?(%|[kMG]?B|M|ms|s))?")
"""A cell that stands flush right."""


class Command(click.Command):
    """A command whose deliberate errors are one line on stderr and exit status 1, unless ``--debug`` is given.

    What is named twice counts once, and options that contradict each other are refused.
    """

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

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _one_line_on_a_full_disk():  # --help
            return super().make_context(*arguments, **options)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            _refuse_contradictions(self.make_parser(ctx).parse_args(list(args))[2], args)
        rest = super().parse_args(ctx, args)
        for argument in self.params:
            if isinstance(argument, click.Argument) and argument.nargs == -1:
                ctx.params[str(argument.name)] = tuple(dict.fromkeys(ctx.params[str(argument.name)]))
        return rest

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


@contextmanager
def _one_line_on_a_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        _give_up_stdout()
        raise click.ClickException(f"The output cannot be written: {error.strerror or error}.") from error


def _refuse_contradictions(order: Sequence[click.Parameter], args: Sequence[str]) -> None:
    """Refuse an option with one value that is given twice, and flags that exclude each other.

    Args:
        order: the parameters in the order in which they were given.
        args: what was given.

    Raises:
        click.UsageError: there is such an option.
    """
    single = [item for item in order if isinstance(item, click.Option) and not item.multiple and not item.count]
    for option in single:
        same = [item for item in single if item.name == option.name]
        spellings = {spelling for item in same for spelling in (max(item.opts, key=len), *item.secondary_opts)}
        given = [spelling for spelling in dict.fromkeys(args) if spelling in spellings]
        if option.is_flag and len(given) > 1:
            raise click.UsageError(f"{' and '.join(given)} exclude each other; give one of them.")
        if not option.is_flag and len(same) > 1:
            raise click.UsageError(f"{max(option.opts, key=len)} is given {len(same)} times; give it once.")


class Group(click.Group):
    """A group of such commands. A mistyped one is answered with the nearest, and Ctrl-C ends it with status 130."""

    command_class = Command

    def main(self, *arguments: Any, **options: Any) -> Any:
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:  # closed by the caller; what is written there is for nobody
                setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  # until the process ends
        return super().main(*arguments, **options)

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _one_line_on_a_full_disk():  # --help and --version
            return super().make_context(*arguments, **options)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"There is no command {args[0]!r}. {nearest(args[0], known)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one need not wait for what is still running
            newline = "\n" if sys.stderr.isatty() else ""  # the terminal shows ^C
            click.echo(f"{newline}Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


class LazyGroup(Group):
    """A group whose commands are each imported when it is called.

    Args:
        commands: name -> ``module:attribute``, in the order of the help.
    """

    def __init__(self, *arguments: Any, commands: Mapping[str, str], **options: Any) -> None:
        options.setdefault(
            "context_settings", {"help_option_names": ["-h", "--help"], "max_content_width": _HELP_COLUMNS}
        )
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

"""What people see in a terminal: tables on stdout, progress bars on stderr, an error as one line."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any
from unicodedata import category

import click

from .._utils.urls import why_no_path
from ..errors import GhostZooError, nearest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


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
_INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the signal's number."""
_PROGRESS_FROM = 8
"""Fewer images than this are done before a progress bar is worth looking at."""
_PIPE_WIDTH = 1000
"""Columns of a table that is not for a terminal: wide enough that no cell is folded."""


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
            ctx.exit(_INTERRUPTED)


class LazyGroup(Group):
    """A group whose commands are each imported when it is called.

    Args:
        commands: name -> ``module:attribute``, in the order of the help.
    """

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


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str | None = None) -> None:
    """Print a table; cells too long for the terminal are folded, not cut."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    table_console(sys.stdout).print(table)


def table_console(stream: IO[str]) -> Console:
    """Return what prints tables: as wide as the terminal, or as the table where ``stream`` leads elsewhere."""
    from rich.console import Console

    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Turn nested facts into rows of a table, with dotted names."""
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", f"{value:.6g}" if isinstance(value, float) else str(value)


@contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[], None]]:
    """Show a progress bar for many images, when somebody is there to see it; yield what advances it."""
    if total < _PROGRESS_FROM or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Where results go to the same terminal, they are printed above the bar; elsewhere stdout is left alone.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def steps(total: int) -> Iterator[Callable[[str], None]]:
    """Show a progress bar of named steps on a terminal; yield what is told of each step as it begins."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task("starting", total=total, completed=-1)
        yield lambda name: bar.update(task, description=name, advance=1)
        bar.update(task, description="done", completed=total)


def download_bar() -> Callable[[str, int, int | None], None] | None:
    """Return what draws downloads by their size until the command ends; ``None`` where nobody is there to see it."""
    if not sys.stderr.isatty():
        return None
    bar = _DownloadBar()
    click.get_current_context().call_on_close(bar.stop)
    return bar


class _DownloadBar:
    """One bar at a time, gone when its download is whole, so that others can be drawn after it."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, title: str, done: int, total: int | None) -> None:
        if self._bar is None or self._task is None:
            self._bar = _transfer_columns()
            self._bar.start()
            self._task = self._bar.add_task(title, total=total)
        self._bar.update(self._task, description=title, completed=done, total=total)
        if done == total:
            self.stop()

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def _transfer_columns() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), redirect_stdout=False, transient=True)


def format_size(count: int) -> str:
    """Write a number of bytes for people, in powers of 1,000."""
    from rich.filesize import decimal

    return decimal(count)

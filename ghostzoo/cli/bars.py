"""Progress bars on stderr, where somebody is there to see them.

All bars of a command are one live display, below everything that is printed while it stands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress, TaskID

_PROGRESS_FROM = 8
"""Fewer images than this are done before a progress bar is worth looking at."""
_BAR_WIDTH = 24
"""Columns; leaves room for names beside it on a terminal of 80."""


@contextmanager
def progress(total: int, title: str, *, streaming: bool = False) -> Iterator[Callable[[], None]]:
    """Show a progress bar for many images; yield what advances it.

    Args:
        total: the number of images; few are done without a bar.
        title: what is done with them.
        streaming: results go to stdout meanwhile; on a terminal they are progress enough.
    """
    _display.end_download()
    if total < _PROGRESS_FROM or not sys.stderr.isatty() or (streaming and sys.stdout.isatty()):
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(TextColumn("{task.description}"), BarColumn(_BAR_WIDTH), MofNCompleteColumn(), TimeRemainingColumn())
    task = bar.add_task(title, total=total)
    _display.add(bar)
    try:
        yield lambda: bar.advance(task)
    finally:
        _display.remove(bar)


@contextmanager
def rate(title: str, count: Callable[[], int | None]) -> Iterator[Callable[[bool], None]]:
    """Show how many images are done, how fast, and how long the rest takes; yield what is told of each.

    Args:
        title: what is done with them.
        count: finds out how many there are, or that nobody knows, while they are worked on.
    """
    _display.end_download()
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns)
    task = bar.add_task(title)
    counts = [0, 0]
    total: list[int | None] = [None]
    Thread(target=lambda: total.append(count()), daemon=True).start()

    def advance(readable: bool) -> None:
        counts[not readable] += 1
        done = sum(counts)
        elapsed = bar.tasks[0].elapsed or 0.0
        if done % 16 == 0 and elapsed:
            bar.update(task, description=f"{title}: {describe_rate(done, counts[1], elapsed, total[-1])}")

    _display.add(bar)
    try:
        yield advance
    finally:
        _display.remove(bar)


def describe_rate(done: int, failed: int, elapsed: float, total: int | None) -> str:
    """Such as ``640 of 1,000 done, 80 a second, 0:00:05 left``."""
    of = f" of {total:,}" if total is not None else ""
    left = f", {timedelta(seconds=round((total - done) * elapsed / done))} left" if total and total >= done else ""
    unreadable = f", {failed:,} unreadable" if failed else ""
    return f"{done:,}{of} done, {done / elapsed:,.0f} a second{left}{unreadable}"


@contextmanager
def steps(total: int) -> Iterator[Callable[[str], None]]:
    """Show a progress bar of named steps; yield what is told of each step as it begins."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), BarColumn(_BAR_WIDTH), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, TextColumn("{task.description}"))
    task = bar.add_task("starting", total=total, completed=-1)
    _display.add(bar)
    try:
        yield lambda name: bar.update(task, description=name, advance=1)
        bar.update(task, description="done", completed=total)
    finally:
        _display.remove(bar)


def download_bar() -> Callable[[str, int, int | None], None] | None:
    """Return what draws downloads by their size until the command ends; ``None`` where nobody is there to see it."""
    if not sys.stderr.isatty():
        return None
    click.get_current_context().call_on_close(_display.end_download)
    return _display.show_download


class _Display:
    """The live display: the bars that stand now, one below the other."""

    def __init__(self) -> None:
        self._bars: list[Progress] = []
        self._live: Live | None = None
        self._download: tuple[Progress, TaskID] | None = None

    def add(self, bar: Progress) -> None:
        from rich.console import Console, Group
        from rich.live import Live

        self._bars.append(bar)
        if self._live is None:
            self._live = Live(
                get_renderable=lambda: Group(*self._bars),
                # soft_wrap: lines that are printed above the bars keep their length, whatever the terminal's is.
                console=Console(stderr=True, soft_wrap=True),
                # Where results go to the same terminal they are printed above, too; elsewhere stdout is left alone.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()

    def remove(self, bar: Progress, *, trace: bool = True) -> None:
        """Take a bar away. The last one leaves a line on the terminal that shows its end, unless without ``trace``."""
        if self._bars == [bar] and self._live is not None:
            self._live.transient = not trace
            self._live.stop()
            self._live = None
        self._bars.remove(bar)

    def show_download(self, title: str, done: int, total: int | None) -> None:
        """Show one download at a time; its bar is gone when it is whole."""
        if self._download is None:
            bar = _transfer_bar()
            self._download = bar, bar.add_task(title, total=total)
            self.add(bar)
        bar, task = self._download
        bar.update(task, description=title, completed=done, total=total)
        if done == total:
            self.end_download()

    def end_download(self) -> None:
        if self._download is not None:
            self.remove(self._download[0], trace=False)
        self._download = None


def _transfer_bar() -> Progress:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(_BAR_WIDTH), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.description}"))


_display = _Display()

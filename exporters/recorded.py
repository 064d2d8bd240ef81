"""Commands that remember how they were called, for the model card."""

from __future__ import annotations

import shlex

import click

from ghostzoo.cli.console import Command

_TYPED = "exporters.recorded.typed"
_LEFT_OUT = ("--resume", "--quiet", "--debug")


class RecordedCommand(Command):
    """Keeps the command line, without the options that do not change the result."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        typed = [arg for arg in args if arg not in _LEFT_OUT]
        ctx.meta[_TYPED] = shlex.join(["python", "-m", "exporters", str(self.name), *typed])
        return super().parse_args(ctx, args)


def command_line(ctx: click.Context) -> str:
    """Return how the command was called."""
    return str(ctx.meta[_TYPED])

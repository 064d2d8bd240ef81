"""``python -m exporters``: parses and prints. A command's libraries are imported when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from ghostzoo import __version__
from ghostzoo.terminal import CommandGroup

_COMMANDS = {
    "export": "exporters.export_command:export",
    "train": "exporters.training.command:train",
}
"""Name -> module and command. Paddle and PyTorch are heavy, and few have both."""


class _LazyGroup(CommandGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: Any = getattr(import_module(module), attribute)
        return command  # type: ignore[no-any-return]


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="ghostzoo %(version)s")
def main() -> None:
    """Make ghostzoo bundles: from Paddle's weights and archives, or by training."""

"""``python -m hub``: parses and prints. A command's libraries are imported when it is called."""

from __future__ import annotations

import click

from ghostzoo import __version__
from ghostzoo.cli.console import LazyGroup

_COMMANDS = {
    "publish": "hub.commands:publish",
    "collection": "hub.commands:collection",
    "card": "hub.commands:card",
}
"""Name -> module and command."""


@click.group(
    cls=LazyGroup,
    commands=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="ghostzoo %(version)s")
def main() -> None:
    """Publish ghostzoo bundles on the Hugging Face Hub."""

"""``python -m exporters``: the command group. A command's libraries are imported when it is called."""

from __future__ import annotations

import click

from ghostzoo import __version__
from ghostzoo.cli.console import LazyGroup

_COMMANDS = {
    "export": "exporters.export_command:export",
    "prove": "exporters.prove_command:prove",
    "quantize": "exporters.quantize_command:quantize",
    "export-edge": "exporters.edge_formats_command:export_edge_command",
    "train": "exporters.training.command:train",
    "distil": "exporters.on_device.command:distil",
    "teacher": "exporters.teacher_command:teacher",
    "embed": "exporters.embed:embed",
    "web": "exporters.web.command:web",
}
"""Name -> module and function. Loaded lazily: Paddle and PyTorch are heavy, and few have both."""


@click.group(cls=LazyGroup, commands=_COMMANDS)
@click.version_option(__version__, message="ghostzoo %(version)s")
def main() -> None:
    """Make ghostzoo bundles: from published weights and archives, proven equal to the original, or by training."""

"""The photographs of a checkout, for commands that need real images and were given none."""

from __future__ import annotations

from pathlib import Path

import click

_EXAMPLES = Path(__file__).parents[1] / "examples"


def default_photographs(option: str) -> str:
    """Return the folder ``examples``; where there is none, it is wrong usage not to give ``option``."""
    if not _EXAMPLES.is_dir():
        raise click.UsageError(f"Give {option}: a folder of photographs.")
    return str(_EXAMPLES)

"""Options that several commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

import click

from ..catalog import DEFAULT_MODEL

_F = TypeVar("_F", bound=Callable[..., Any])

model_option = click.option(
    "--model", help=f"A name that 'ghostzoo list' shows, or a bundle folder.  [default: {DEFAULT_MODEL}]"
)

_ENGINE_OPTIONS = (
    click.option("--engine", default="auto", show_default=True, help="Inference library; auto measures which is best."),
    click.option("--device", help="Device, by the engine's name for it.  [default: the engine's]"),
    click.option(
        "--precision", default="fp32", show_default=True, help="fp32, or fp16 / int8 where the bundle has them."
    ),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the CPUs that may be used]"),
)


def engine_options(command: _F) -> _F:
    """Give a command the options of ``ghostzoo.load``: ``engine``, ``device``, ``precision`` and ``threads``."""
    return reduce(lambda decorated, option: option(decorated), reversed(_ENGINE_OPTIONS), command)

"""Options that several commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce, wraps
from typing import Any, TypeVar, cast

import click

from ..catalog import DEFAULT_MODEL
from .bars import download_bar
from .console import ANY_PATH

_F = TypeVar("_F", bound=Callable[..., Any])

BUNDLED_MODEL = f"zoo://{DEFAULT_MODEL}"
"""What a command loads when no model is named: the same as ``ghostzoo.load()``, which says so before it is of use."""

model_option = click.option(
    "--model",
    help=f"A name from 'ghostzoo list', a bundle folder, or owner/name on the Hub.  [default: {DEFAULT_MODEL}]",
)

_ENGINE_OPTIONS = (
    click.option("--engine", default="auto", show_default=True, help="Engine; auto measures which is fastest."),
    click.option("--device", help="Device, as the engine names it.  [default: the engine's]"),
    click.option("--precision", default="fp32", show_default=True, help="fp32, or fp16 or int8 if the bundle has it."),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all usable CPUs]"),
)

cache_dir_option = click.option(
    "--cache-dir", type=ANY_PATH, help="Folder for fetched models.  [default: what 'ghostzoo cache path' prints]"
)

_FETCH_OPTIONS = (
    click.option("--revision", help="Branch, tag or commit of the Hub repository."),
    cache_dir_option,
    click.option("--offline", is_flag=True, default=None, help="Do not use the network, as with HF_HUB_OFFLINE=1."),
    click.option("--endpoint", metavar="URL", help="Address of the Hub, as in HF_ENDPOINT."),
    click.option("--token", help="Token for the Hub; in HF_TOKEN instead, other users cannot see it."),
)


def engine_options(command: _F) -> _F:
    """Give a command the options of ``ghostzoo.load``: ``engine``, ``device``, ``precision`` and ``threads``."""
    return reduce(lambda decorated, option: option(decorated), reversed(_ENGINE_OPTIONS), command)


def fetch_options(command: _F) -> _F:
    """Give a command the options of ``FetchOptions``, under the same names; ``progress`` draws on the terminal."""

    @wraps(command)
    def with_progress(*arguments: Any, **options: Any) -> Any:
        return command(*arguments, progress=download_bar(), **options)

    return reduce(lambda decorated, option: option(decorated), reversed(_FETCH_OPTIONS), cast(_F, with_progress))

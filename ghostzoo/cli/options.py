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
    help=f"A name that 'ghostzoo list' shows, a bundle folder, or owner/name of the Hub.  [default: {DEFAULT_MODEL}]",
)

_ENGINE_OPTIONS = (
    click.option("--engine", default="auto", show_default=True, help="Inference library; auto measures which is best."),
    click.option("--device", help="Device, by the engine's name for it.  [default: the engine's]"),
    click.option(
        "--precision", default="fp32", show_default=True, help="fp32, or fp16 / int8 where the bundle has them."
    ),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the CPUs that may be used]"),
)

cache_dir_option = click.option(
    "--cache-dir", type=ANY_PATH, help="Folder that keeps fetched models.  [default: see 'ghostzoo cache path']"
)

_FETCH_OPTIONS = (
    click.option("--revision", help="Branch, tag or commit of the Hub repository."),
    cache_dir_option,
    click.option("--offline", is_flag=True, default=None, help="Make no request; as HF_HUB_OFFLINE=1."),
    click.option("--endpoint", metavar="URL", help="The Hub's address; as HF_ENDPOINT."),
    click.option("--token", help="The Hub's token; HF_TOKEN keeps it out of the list of processes."),
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

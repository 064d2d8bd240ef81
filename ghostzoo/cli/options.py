"""Options that several commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce, wraps
from typing import Any, TypeVar, cast

import click

from ..catalog import DEFAULT_MODEL
from ..names import LANGUAGES
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
    click.option(
        "--precision",
        default="fp32",
        show_default=True,
        help="fp32; fp16 or int8 if the bundle has it; bf16 if the CPU has it.",
    ),
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


_LIMIT_OPTIONS = {
    "max_pixels": click.option("--max-pixels", type=click.IntRange(min=1), help="Largest image.  [default: 100000000]"),
    "max_bytes": click.option("--max-bytes", type=click.IntRange(min=1), help="Largest file.  [default: 104857600]"),
    "max_aspect_ratio": click.option(
        "--max-aspect-ratio", type=click.FloatRange(min=1), help="Longer side to shorter.  [default: 200]"
    ),
    "max_scans": click.option(
        "--max-scans",
        type=click.FloatRange(min=0, min_open=True),
        help="Scans of a progressive JPEG of --max-pixels.  [default: 32]",
    ),
    "url_timeout": click.option(
        "--url-timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds per download.  [default: 30]"
    ),
}
"""Field of ``ImageLimits`` -> its option."""

_READ_OPTIONS = (
    click.option(
        "--background", metavar="COLOUR", help="Show behind transparency: white, '#rrggbb'; else it is dropped."
    ),
    click.option("--lenient", is_flag=True, help="Read what can be decoded of damaged JPEGs; their results say so."),
    click.option("--draft", is_flag=True, help="Decode large JPEGs at a fraction of their size: faster, inexact."),
)


_CONFIDENCE_OPTIONS = (
    click.option("--calibrated/--uncalibrated", default=True, help="Use the model's temperature, if it has one."),
    click.option(
        "--coverage",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="As many classes as hold the right one with this probability; calibrated models only.",
    ),
    click.option(
        "--unknown-below",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="No class for images less familiar than this share of those calibrated on.",
    ),
)


_NAME_OPTIONS = (
    click.option(
        "--lang",
        "labels",
        type=click.Choice(list(LANGUAGES), case_sensitive=False),
        help="Name classes in English or Chinese.  [default: as the original names them]",
    ),
    click.option(
        "--group",
        multiple=True,
        metavar="NAME",
        help="Add up the scores of a WordNet group, such as dog, or of the basic ones; may be repeated.",
    ),
)


def name_options(command: _F) -> _F:
    """Give a command ``labels`` of ``ghostzoo.load``, and ``group`` of ``predict``, which is ``None`` if not given."""

    @wraps(command)
    def with_group(*arguments: Any, group: tuple[str, ...], **options: Any) -> Any:
        return command(*arguments, group=group or None, **options)

    return reduce(lambda decorated, option: option(decorated), reversed(_NAME_OPTIONS), cast(_F, with_group))


def confidence_options(command: _F) -> _F:
    """Give a command the options of ``predict`` that a calibrated model has."""
    return reduce(lambda decorated, option: option(decorated), reversed(_CONFIDENCE_OPTIONS), command)


def image_options(command: _F) -> _F:
    """Give a command the options of ``ghostzoo.load`` that say how images are read and what they may cost."""

    @wraps(command)
    def with_limits(*arguments: Any, **options: Any) -> Any:
        from ..images.decode import ImageLimits

        given = {name: options.pop(name) for name in _LIMIT_OPTIONS}
        names = {name: "--" + name.replace("_", "-") for name in (*_LIMIT_OPTIONS, "lenient")}
        limits = ImageLimits(**{name: value for name, value in given.items() if value is not None}, option_names=names)
        return command(*arguments, limits=limits, **options)

    return reduce(
        lambda decorated, option: option(decorated),
        reversed((*_READ_OPTIONS, *_LIMIT_OPTIONS.values())),
        cast(_F, with_limits),
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

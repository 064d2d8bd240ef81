"""What a caller decides of images: what one may cost, how it is read, and how messages name it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from os import PathLike
from typing import Any

import numpy as np

from .._utils.urls import is_url, without_secrets
from ..errors import ImageError, OptionError

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""
_NAMES: dict[str, Colour] = {"black": (0, 0, 0), "gray": (128,) * 3, "grey": (128,) * 3, "white": (255,) * 3}
_HEXADECIMAL = re.compile(r"#(?:[0-9a-f]{3}|[0-9a-f]{6})", re.IGNORECASE)
_LARGEST_LIMIT = 2**31
"""The decoder takes neither more bytes nor more pixels, whatever is allowed."""


@dataclass(frozen=True)
class ImageLimits:
    """What one image may cost at most; an image beyond a limit is an ``ImageError``, found before it is decoded."""

    max_bytes: int = 100 * 2**20
    """Encoded size."""
    max_pixels: int = 100_000_000
    """Width times height: what the largest cameras take; 300 MB decoded."""
    max_aspect_ratio: float = 200.0
    """Longer side to shorter; resizing the shorter side to 256 pixels makes the longer one this many times as long."""
    max_scans: float = 32.0
    """Scans of a progressive JPEG that has ``max_pixels``; one with half as many may have twice as many scans. Writers
    make about 10."""
    url_timeout: float = 30.0
    """Seconds for a whole download, redirects included."""
    max_redirects: int = 5
    option_names: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Name of each limit in messages, such as a command's option; empty for none. By default the field's name.
    ``lenient`` may have one too."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "option_names":
                continue
            whole = name in ("max_bytes", "max_pixels", "max_redirects")
            if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
                raise OptionError(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}.")
            if not (0 < float(value) <= _LARGEST_LIMIT or (value == 0 and name == "max_redirects")):
                raise OptionError(f"{name} must be above zero and at most {_LARGEST_LIMIT}, not {value!r}.")

    def name(self, limit: str) -> str:
        """The limit's name in parentheses, for a message: `` (max_pixels)`` or `` (--max-pixels)``."""
        name = self.option_names.get(limit, limit)
        return f" ({name})" if name else ""

    def check(self, source: Any, width: int, height: int) -> None:
        """Raise ``ImageError`` if an image of this size is too large."""
        if width < 1 or height < 1:
            raise ImageError(describe(source), "it has no pixels")
        if width * height > self.max_pixels:
            raise ImageError(
                describe(source),
                f"{width} x {height} pixels are more than the {self.max_pixels} that are decoded"
                f"{self.name('max_pixels')}; make it smaller",
            )
        if max(width, height) > self.max_aspect_ratio * min(width, height):
            raise ImageError(
                describe(source),
                f"{width} x {height} pixels are too long and thin: at most {self.max_aspect_ratio:g} to 1"
                f"{self.name('max_aspect_ratio')}; crop it",
            )

    def check_scans(self, source: Any, pixels: int, scans: int) -> None:
        """Raise ``ImageError`` if the decoder would go over an image's pixels too often."""
        if pixels * scans > self.max_scans * self.max_pixels:
            raise ImageError(
                describe(source),
                f"{scans} scans of {pixels} pixels are more than {self.max_scans:g}{self.name('max_scans')} of "
                f"{self.max_pixels}{self.name('max_pixels')}; save it again",
            )


@dataclass(frozen=True)
class ReadOptions:
    """How an image is read; by default as the original reads it."""

    background: Colour | None = None
    """Colour to compose transparent pixels over; ``None`` drops the alpha channel and keeps their stored colour."""
    lenient: bool = False
    """Read what can be decoded of a damaged JPEG, instead of raising an error; the rest is grey or blurred."""
    draft_side: int | None = None
    """Decode a JPEG at the smallest of 1/2, 1/4 and 1/8 of its size whose shorter side is at least this many pixels.
    Faster, but inexact: the pixels differ from those of a full decode that is resized."""


def parse_colour(value: str | Sequence[int]) -> Colour:
    """Return the colour that ``value`` names: ``white``, ``black``, ``grey``, ``#rgb``, ``#rrggbb``, or three integers.

    Raises:
        OptionError: it names none.
    """
    if isinstance(value, str):
        if value.lower() in _NAMES:
            return _NAMES[value.lower()]
        if _HEXADECIMAL.fullmatch(value):
            digits = value[1:] if len(value) == 7 else "".join(digit * 2 for digit in value[1:])
            red, green, blue = bytes.fromhex(digits)
            return red, green, blue
    elif isinstance(value, Sequence) and len(value) == 3 and all(_is_level(each) for each in value):
        red, green, blue = map(int, value)
        return red, green, blue
    raise OptionError(
        f"background must be white, black, grey, '#rrggbb', or (red, green, blue) of 0 to 255, not {value!r}."
    )


def _is_level(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) <= 255


def describe(source: Any) -> str:
    """Name a source for messages: its path, its URL without password and query, or its kind and size."""
    if is_url(source):
        return without_secrets(source)
    if isinstance(source, str | PathLike):
        return os.fsdecode(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{memoryview(source).nbytes} bytes>"
    if isinstance(source, np.ndarray):
        return f"<array {' x '.join(map(str, source.shape))} {source.dtype}>"
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    if isinstance(name, str | PathLike):
        return os.fsdecode(name)
    return f"<{type(source).__name__}>"

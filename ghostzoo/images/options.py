"""Options for reading images: transparency, damaged files, reduced decoding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from ..errors import OptionError

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""
_NAMES: dict[str, Colour] = {"black": (0, 0, 0), "gray": (128,) * 3, "grey": (128,) * 3, "white": (255,) * 3}
_HEXADECIMAL = re.compile(r"#(?:[0-9a-f]{3}|[0-9a-f]{6})", re.IGNORECASE)


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

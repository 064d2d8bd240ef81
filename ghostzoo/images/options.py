"""How images are read: what is done with transparency, damage and more pixels than the network needs."""

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
    """Colour behind transparent pixels; ``None`` drops transparency, and whatever colour such pixels have is shown."""
    lenient: bool = False
    """Read what can be decoded of a damaged JPEG, instead of raising an error; the rest is grey or blurred."""
    draft_side: int | None = None
    """Decode a JPEG at a half, a quarter or an eighth of its size, the smallest whose shorter side has so many pixels.
    Faster, and inexact: the pixels are others than those of decoding it in full and resizing it then."""


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

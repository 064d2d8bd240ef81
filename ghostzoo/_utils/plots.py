"""matplotlib, an optional extra, and fonts for names in any script."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any
from unicodedata import category, east_asian_width

from ..errors import InputError

_MAX_FONTS = 400
"""Fonts examined at most; a system with all languages has about 300 families."""
_LIKELY = ("noto sans cjk", "source han", "wenquanyi", "pingfang", "hiragino", "yahei", "simhei", "yu gothic", "malgun")
"""Families that cover most East Asian scripts, tried first."""


def require_matplotlib() -> Any:
    """Return ``matplotlib.figure``.

    Raises:
        InputError: it is not installed.
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        raise InputError("Plots need matplotlib; run \"pip install 'ghostzoo[plots]'\".") from error
    return matplotlib.figure


@dataclass(frozen=True)
class Lettering:
    """How names are drawn."""

    style: dict[str, Any]
    """Text properties for matplotlib: the font families; ``$`` does not start a formula."""
    _missing: frozenset[str]

    def can_write(self, name: str) -> bool:
        """Whether the fonts cover ``name``; missing glyphs would be drawn as boxes."""
        return self._missing.isdisjoint(name)


def lettering(names: Iterable[str]) -> Lettering:
    """Find installed fonts that cover ``names``, where matplotlib's default font does not."""
    import matplotlib as mpl
    from matplotlib import font_manager

    letters = {letter for name in names for letter in name}
    controls = {letter for letter in letters if category(letter)[0] == "C"}
    families = list(mpl.rcParams["font.family"])
    missing = letters - controls - _letters_of(font_manager.findfont(font_manager.FontProperties()))
    for family, path in _system_fonts() if missing else ():
        if found := missing & _letters_of(path):
            families.append(family)
            missing -= found
            if not missing:
                break
    return Lettering({"fontfamily": families, "parse_math": False}, frozenset(missing | controls))


def shortened(name: str, columns: int) -> str:
    """Shorten a name to a width in columns; East Asian characters take two."""
    width = 0
    for position, letter in enumerate(name):
        width += 2 if east_asian_width(letter) in "WF" else 1
        if width > columns:
            return f"{name[: max(1, position - 1)]}…"
    return name


@cache
def _letters_of(path: Any) -> frozenset[str]:
    from matplotlib import font_manager

    try:
        return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # a font that FreeType cannot load
        return frozenset()


def _system_fonts() -> list[tuple[str, str]]:
    """Families and their files, without matplotlib's own, which are for formulas or draw boxes."""
    import matplotlib as mpl
    from matplotlib import font_manager

    own = mpl.get_data_path()
    _add_new_fonts()
    fonts: dict[str, tuple[bool, bool, str, str]] = {}
    for entry in font_manager.fontManager.ttflist:
        weight = 400 if isinstance(entry.weight, str) else entry.weight
        if entry.style != "normal" or not 300 <= weight <= 500 or entry.fname.startswith(own):
            continue
        lower = entry.name.lower()
        if "emoji" not in lower:  # coloured bitmaps, which matplotlib does not draw
            rank = (weight != 400, not any(word in lower for word in _LIKELY), entry.name, entry.fname)
            fonts[entry.name] = min(rank, fonts.get(entry.name, rank))
    return [(name, path) for *_, name, path in sorted(fonts.values())[:_MAX_FONTS]]


def _add_new_fonts() -> None:
    """Add fonts that were installed after matplotlib last listed them."""
    from matplotlib import font_manager

    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        with suppress(Exception):  # a damaged font raises errors of many kinds
            font_manager.fontManager.addfont(path)

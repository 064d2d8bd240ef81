"""What draws the pictures of reports: matplotlib, an extra; and names in any script, as far as there are fonts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any
from unicodedata import category, east_asian_width

from ..errors import InputError

_MAX_FONTS = 400
"""How many are looked into; a system with every language has some 300 families."""
_LIKELY = ("noto sans cjk", "source han", "wenquanyi", "pingfang", "hiragino", "yahei", "simhei", "yu gothic", "malgun")
"""Families with most scripts of East Asia, asked first."""


def require_matplotlib() -> Any:
    """Return ``matplotlib.figure``.

    Raises:
        InputError: it is not installed.
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        raise InputError("The pictures need matplotlib; run \"pip install 'ghostzoo[plots]'\".") from error
    return matplotlib.figure


@dataclass(frozen=True)
class Lettering:
    """How names are written into a picture."""

    style: dict[str, Any]
    """For whatever of matplotlib draws text: the font families, and that ``$`` begins no formula."""
    _missing: frozenset[str]

    def can_write(self, name: str) -> bool:
        """Whether the fonts have all letters of ``name``; others would be drawn as boxes."""
        return self._missing.isdisjoint(name)


def lettering(names: Iterable[str]) -> Lettering:
    """Find fonts of this system for all letters of ``names``, as few as possible beside matplotlib's own."""
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
    """Cut a name to a width; letters of East Asia take two columns."""
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
    except (OSError, RuntimeError):  # of a kind that FreeType cannot draw from
        return frozenset()


def _system_fonts() -> list[tuple[str, str]]:
    """Families beside matplotlib's own, which are for formulas, or draw boxes for all letters; each with its file."""
    import matplotlib as mpl
    from matplotlib import font_manager

    own = mpl.get_data_path()
    fonts = {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if (entry.style, entry.weight) in (("normal", 400), ("normal", "normal"))
        and not entry.fname.startswith(own)
        and "emoji" not in entry.name.lower()
    }
    return sorted(fonts.items(), key=lambda font: (not any(word in font[0].lower() for word in _LIKELY), font))[
        :_MAX_FONTS
    ]

"""CSV that a spreadsheet shows and does not run: names of files and classes may come from anybody."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""As OWASP's page on CSV injection lists them; the last four are full-width forms. ``page/csv.js`` has them too."""


def csv_row(cells: Iterable[object]) -> str:
    """Return a row of CSV that ends in a line feed.

    A text that a spreadsheet would run as a formula gets an apostrophe before it; numbers are as they were.
    """
    buffer = io.StringIO()
    # Up to Python 3.12 only what is in the line terminator is quoted, and a bare carriage return begins a row too.
    csv.writer(buffer, lineterminator="\r\n").writerow(map(_inert, cells))
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _inert(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value

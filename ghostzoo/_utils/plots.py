"""What draws the pictures of reports: matplotlib, an extra."""

from __future__ import annotations

from typing import Any

from ..errors import InputError


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

"""What is told of an encoded image before it is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

TRUNCATED = "it is truncated or damaged; get the file again"
DAMAGED = "its header is damaged; save it again"


class HeaderError(ValueError):
    """The image cannot be decoded safely; the message says why."""


def _nothing() -> None:
    """Most formats have nothing left to check."""


@dataclass(frozen=True)
class Header:
    """An image's size, and what to give to the decoder."""

    width: int
    """Pixels, before EXIF orientation."""
    height: int
    data: bytes
    """The file, without what the picture does not need where that would cost the decoder time or its life."""
    scans: int = 1
    """How many times the decoder goes over all pixels."""
    check_data: Callable[[], None] = _nothing
    """Raises ``HeaderError`` if the data are out of proportion; takes time, so the size has to be allowed first."""

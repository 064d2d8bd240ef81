"""What is told of an encoded image before it is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

TRUNCATED = "it is truncated or damaged; get the file again"
DAMAGED = "its header is damaged; save it again"


class HeaderError(ValueError):
    """The image cannot be decoded safely; the message says why."""


class Alpha(Enum):
    """Whether an image may be transparent, and how the decoder gives that."""

    NONE = "opaque"
    STRAIGHT = "a fourth channel, if the picture has one"
    PREMULTIPLIED = "a fourth channel, by which the colours are multiplied already"
    LOST = "not at all"


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
    orientation: int = 1
    """EXIF's, 1 to 8, where the decoder leaves it to us."""
    white: int = 255
    """The value of white where the decoder gives samples as they are in the file."""
    alpha: Alpha = Alpha.NONE
    transparent_grey: int | None = None
    """The one grey that is transparent, in 8 bits, where the decoder gives no alpha channel for it."""
    damaged: bool = False
    """The end of the file is missing, and the rest of it is to be decoded."""
    cuts: tuple[int, ...] = ()
    """Where the file may be cut if the decoder gives up on what comes later, if that is allowed."""
    decoder: Literal["", "avif", "heif"] = ""
    """Whether another way than OpenCV's usual one leads to the pixels."""
    reducible: bool = False
    """The decoder can decode it at a half, a quarter or an eighth of its size."""
    reusable: bool = False
    """It is decoded into memory that is used again, if it is large; the formats of photos."""
    alpha_shift: int = 8
    """Bits by which samples of more than 8 bits are shifted where the decoder gives them as they are in the file."""

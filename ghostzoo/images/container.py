"""What is known of an encoded image before it is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

JPEG = b"\xff\xd8"
PNG = b"\x89PNG\r\n\x1a\n"
CODE_STREAM = b"\xff\x4f\xff\x51"
"""How files of these formats begin, a JPEG 2000 file without boxes the last."""

TRUNCATED = "it is truncated or damaged; get the file again"
DAMAGED = "its header is damaged; save it again"
UNDECODABLE = "it is damaged, or of a kind of its format that cannot be decoded"


class HeaderError(ValueError):
    """The image cannot be decoded safely; the message says why."""


class Alpha(Enum):
    """Whether an image may be transparent, and how the decoder returns its transparency."""

    NONE = "opaque"
    STRAIGHT = "a fourth channel, if the picture has one"
    PREMULTIPLIED = "a fourth channel, with premultiplied colours"
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
    """The file, without the parts that the picture does not need and that are costly or dangerous to decode."""
    scans: int = 1
    """Passes of the decoder over all pixels."""
    check_data: Callable[[], None] = _nothing
    """Raises ``HeaderError`` if the data are out of proportion; takes time, so the size has to be allowed first."""
    orientation: int = 1
    """As in EXIF, 1 to 8; 1 where the decoder applies it itself."""
    white: int = 255
    """The largest sample value, where the decoder does not scale it to 255."""
    alpha: Alpha = Alpha.NONE
    transparent_grey: int | None = None
    """The grey level, in 8 bits, that is transparent, where the decoder returns no alpha channel for it."""
    damaged: bool = False
    """The end of the file is missing."""
    cuts: tuple[int, ...] = ()
    """Where the file may be cut off if it cannot be decoded whole; none unless damaged files are accepted."""
    decoder: Literal["", "avif", "heif"] = ""
    """What decodes it, if not a plain call of OpenCV."""
    reducible: bool = False
    """The decoder can decode it at a half, a quarter or an eighth of its size."""
    reusable: bool = False
    """If large, it is decoded into reused memory: for the formats of photos."""
    alpha_shift: int = 8
    """Bits to shift samples by to get 8 bits, where the decoder returns them unscaled."""

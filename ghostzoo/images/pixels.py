"""A checked file -> RGB pixels: calls of OpenCV's decoders, and what is done to their results."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .buffers import new_image
from .container import UNDECODABLE, Alpha, Header, HeaderError
from .options import Colour, ReadOptions

_REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
"""The flags for reduced colour include BGR, which excludes RGB."""
_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_LARGE = 16 * 2**20
"""Bytes of pixels from which memory is reused; below, the C library usually does so itself."""
_TURNS: dict[int, Callable[[NDArray[np.uint8], NDArray[np.uint8]], object]] = {
    2: lambda pixels, out: cv2.flip(pixels, 1, out),
    3: lambda pixels, out: cv2.rotate(pixels, cv2.ROTATE_180, out),
    4: lambda pixels, out: cv2.flip(pixels, 0, out),
    5: lambda pixels, out: cv2.transpose(pixels, out),
    6: lambda pixels, out: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE, out),
    7: lambda pixels, out: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180, out),
    8: lambda pixels, out: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE, out),
}
"""EXIF orientation -> a function that writes the upright pixels to ``out``."""
_MOST_CUTS = 4
"""Each costs up to one decode of the file. Four are enough for 15 scans; most files have about 10."""
_STRIPE = 2**18
"""Bytes of pixels to compose at once."""


def decode_pixels(header: Header, options: ReadOptions) -> tuple[NDArray[np.uint8], bool]:
    """Decode a file whose header was read and whose size is allowed.

    Returns:
        (H, W, 3) uint8 RGB, contiguous, turned as the file says; and whether the file is damaged.

    Raises:
        HeaderError: it cannot be decoded.
        cv2.error: likewise.
    """
    pixels = _composed(header, options.background) if options.background is not None else None
    damaged = header.damaged
    if pixels is None:
        reduction = _reduction(header, options.draft_side)
        try:
            pixels = _decoded(header, reduction)
        except HeaderError:
            pixels, damaged = _salvaged(header, reduction), True
            if pixels is None:
                raise
    return turned(pixels, header.orientation), damaged


def turned(pixels: NDArray[np.uint8], orientation: Any) -> NDArray[np.uint8]:
    """Turn and mirror pixels as EXIF orientation 1 to 8 says; other values mean nothing. Contiguous."""
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    out = new_image(width, height, 3) if orientation >= 5 else new_image(height, width, 3)
    turn(pixels, out)
    return out


def compose(
    rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], background: Colour, *, premultiplied: bool = False
) -> NDArray[np.uint8]:
    """Compose an image over a colour.

    Args:
        rgb: (H, W, 3) uint8.
        alpha: (H, W) uint8, 255 where the image is opaque.
        background: the colour.
        premultiplied: whether the colours are multiplied by alpha already.

    Returns:
        (H, W, 3) uint8, new.
    """
    composed = np.empty(rgb.shape, np.uint8)
    rows = max(1, _STRIPE // max(1, rgb.shape[1] * 3))
    for start in range(0, len(rgb), rows):
        stripe = slice(start, start + rows)
        opacity = alpha[stripe, :, None].astype(np.uint16)
        light = rgb[stripe].astype(np.uint16)
        light = np.minimum(light, opacity) * np.uint16(255) if premultiplied else light * opacity
        light += np.array(background, np.uint16) * (255 - opacity)
        composed[stripe] = (light + 127) // 255
    return composed


def _reduction(header: Header, side: int | None) -> int:
    """The factor to divide the size by while decoding; 1 for a full decode."""
    if side is None or not header.reducible:
        return 1
    return next((each for each in _REDUCED if min(header.width, header.height) // each >= side), 1)


def _decoded(header: Header, reduction: int) -> NDArray[np.uint8]:
    if header.decoder == "avif":  # OpenCV 5.0 returns BGR for transparent ones even if RGB is asked for
        bgr = _imdecode(header.data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, bgr)
        return bgr
    flags = _RGB | _REDUCED.get(reduction, 0) | (cv2.IMREAD_ANYDEPTH if header.white != 255 else 0)
    pixels = None
    if header.reusable:
        shape = -(-header.height // reduction), -(-header.width // reduction), 3
        pixels = _decoded_into(shape, header.data, flags)
    if pixels is None:
        pixels = _imdecode(header.data, flags)
    if header.white != 255:
        levels = np.minimum(np.arange(256 if pixels.dtype == np.uint8 else 65536), header.white)
        pixels = ((levels * 255 + header.white // 2) // header.white).astype(np.uint8)[pixels]
    return pixels


def _salvaged(header: Header, reduction: int) -> NDArray[np.uint8] | None:
    """Decode the longest prefix of whole scans that can be decoded, found by bisection."""
    from .jpeg import END

    pixels = None
    good, bad = 0, len(header.cuts)
    for _ in range(_MOST_CUTS):
        if good == bad:
            break
        middle = (good + bad) // 2
        try:
            pixels = _decoded(replace(header, data=header.data[: header.cuts[middle]] + END), reduction)
            good = middle + 1
        except HeaderError:
            bad = middle
    return pixels


def _imdecode(data: bytes, flags: int) -> NDArray[Any]:
    pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise HeaderError(UNDECODABLE)
    return pixels


def _decoded_into(shape: tuple[int, int, int], data: bytes, flags: int) -> NDArray[np.uint8] | None:
    """Decode a large image into reused memory; ``None`` if it is small or damaged, or the system has no memory files.

    OpenCV can decode into existing memory from a file only, so the data are written to a file in memory first.
    """
    if np.prod(shape) < _LARGE or not hasattr(os, "memfd_create"):
        return None
    try:
        file = os.memfd_create("image")
    except OSError:
        return None
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        pixels = new_image(*shape)
        # If the decoder refuses the header, imread returns the array unchanged, without an error.
        mark = np.frombuffer(os.urandom(32), np.uint8)
        start = pixels.reshape(-1)[: len(mark)]
        start[:] = mark
        decoded = cv2.imread(f"/proc/self/fd/{file}", pixels, flags)
        return None if decoded is None or np.array_equal(start, mark) else pixels
    except OSError:
        return None
    finally:
        os.close(file)


def _composed(header: Header, background: Colour) -> NDArray[np.uint8] | None:
    """The image composed over the background, or ``None`` if it is opaque."""
    if header.alpha is Alpha.LOST:
        raise HeaderError("the transparency of its kind cannot be decoded; convert it to PNG")
    if header.alpha is Alpha.NONE:
        return None
    pixels = _imdecode(header.data, cv2.IMREAD_UNCHANGED)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> header.alpha_shift).astype(np.uint8)
    if pixels.dtype != np.uint8:
        return None
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return compose(
            pixels[:, :, 2::-1], pixels[:, :, 3], background, premultiplied=header.alpha is Alpha.PREMULTIPLIED
        )
    if pixels.ndim == 2 and header.transparent_grey is not None:
        alpha = np.where(pixels == header.transparent_grey, 0, 255).astype(np.uint8)
        return compose(np.broadcast_to(pixels[:, :, None], (*pixels.shape, 3)), alpha, background)
    return None

"""Path, URL, bytes, file object, PIL image or array -> RGB uint8, within limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .container import JPEG, TRUNCATED, UNDECODABLE, HeaderError
from .header import read_header
from .inputs import is_pil_image
from .options import ImageLimits, ReadOptions, describe
from .pixels import compose, decode_pixels
from .sources import read_encoded

__all__ = ["ImageLimits", "Picture", "ReadOptions", "describe", "read_image", "read_picture"]


_DEFAULT_LIMITS = ImageLimits(
    option_names=dict.fromkeys(("max_bytes", "max_pixels", "max_aspect_ratio", "max_scans"), "")
)
"""For callers without an option to change them, so messages name none."""


@dataclass(frozen=True)
class Picture:
    """An image that was read."""

    rgb: NDArray[np.uint8]
    """(H, W, 3) uint8, contiguous; a view of the caller's array where that is one already."""
    damaged: bool = False
    """Part of the file is missing or cannot be decoded, and is grey or blurred instead."""


def read_image(source: Any, limits: ImageLimits | None = None, options: ReadOptions | None = None) -> NDArray[np.uint8]:
    """Return an image as RGB.

    EXIF orientation is honoured wherever there is one. Alpha is dropped, as the original drops it, unless ``options``
    name a background; grey and palette become colour, 16 bits become 8, and of an animation the first frame is taken;
    of an animated PNG its default image, which is the first frame in most. A truncated file is an error, not a
    half-grey picture.

    Args:
        source: a path, an ``http(s)`` URL, bytes, a binary file object (read from where it stands), a PIL image, or a
            uint8 array (H, W, 3) RGB, (H, W, 4) RGBA, (H, W, 1) or (H, W) grey. It is not changed.
        limits: what the image may cost.
        options: how it is read.

    Returns:
        (H, W, 3) uint8, contiguous; a view of the caller's array where that is one already.

    Raises:
        ImageError: it cannot be read or is beyond a limit.
        InputError: it is no image of any of these kinds.
    """
    return read_picture(source, limits or _DEFAULT_LIMITS, options or ReadOptions()).rgb


def read_picture(source: Any, limits: ImageLimits, options: ReadOptions) -> Picture:
    """As ``read_image``, but also say whether the file is damaged."""
    if isinstance(source, np.ndarray):
        return Picture(_from_array(source, limits, options))
    if is_pil_image(source):
        from .pil import from_pil

        return Picture(np.ascontiguousarray(from_pil(source, limits, options)))
    return _decode(source, read_encoded(source, limits), limits, options)


def _decode(source: Any, data: bytes, limits: ImageLimits, options: ReadOptions) -> Picture:
    try:
        header = read_header(data, lenient=options.lenient)
        limits.check(source, header.width, header.height)
        limits.check_scans(source, header.width * header.height, header.scans)
        header.check_data()
        if header.decoder == "heif":
            from .pil import from_heif

            return Picture(np.ascontiguousarray(from_heif(header.data, source, limits, options)))
        rgb, damaged = decode_pixels(header, options)
    except HeaderError as error:
        option = limits.option_names.get("lenient")
        salvageable = data.startswith(JPEG) and str(error) in (TRUNCATED, UNDECODABLE) and not options.lenient
        advice = f", or read it with {option}" if option and salvageable else ""
        raise ImageError(describe(source), f"{error}{advice}") from error
    except cv2.error as error:
        raise ImageError(describe(source), f"it cannot be decoded ({error.err or error})") from error
    limits.check(source, rgb.shape[1], rgb.shape[0])
    return Picture(rgb, damaged)


def _from_array(array: NDArray[Any], limits: ImageLimits, options: ReadOptions) -> NDArray[np.uint8]:
    array = np.asarray(array)  # a matrix or masked array would not behave as an array below
    if array.dtype != np.uint8:
        raise ImageError(describe(array), "an image array must be uint8, 0 to 255; convert it first")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(describe(array), "an image array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), channels last")
    limits.check(array, array.shape[1], array.shape[0])
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    if array.shape[2] == 4 and options.background is not None:
        return compose(array[:, :, :3], array[:, :, 3], options.background)
    return np.ascontiguousarray(array[:, :, :3])

"""PIL image -> RGB pixels, the same as from a file with the same content."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .exif import ORIENTATION, read_orientation
from .options import ImageLimits, ReadOptions, describe
from .pixels import compose, turned

_WITH_ALPHA = ("RGBA", "LA", "La", "PA", "RGBa")
_ORIENTATION_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def from_pil(image: Any, limits: ImageLimits, options: ReadOptions) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8, turned as its EXIF data say; the image is not changed.

    Raises:
        ImageError: it is beyond a limit, or has no defined colours, or PIL cannot read it.
    """
    limits.check(image, *image.size)
    try:
        image.load()  # a TIFF image is turned by that already, and then forgets its orientation
        return turned(_pixels(image, options), _orientation(image))
    except ImageError:
        raise
    except Exception as error:  # a lazily loaded file may be damaged; PIL raises many kinds of error
        advice = "; pass the file itself to have it read leniently" if options.lenient else ""
        raise ImageError(describe(image), f"PIL cannot read it ({error}){advice}") from error


def from_heif(data: bytes, source: Any, limits: ImageLimits, options: ReadOptions) -> NDArray[np.uint8]:
    """Decode a HEIC file whose header was checked, with Pillow's plugin; raises as ``from_pil``.

    Raises:
        ImageError: the plugin is not installed.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(
            describe(source), "HEIC is read by pillow-heif; run 'pip install \"ghostzoo[heif]\"', or convert it to PNG"
        ) from error
    try:
        image = pillow_heif.open_heif(io.BytesIO(data)).to_pillow()
    except Exception as error:  # the plugin raises many kinds of error
        raise ImageError(describe(source), f"it is damaged, or of an unsupported kind of HEIC ({error})") from error
    return from_pil(image, limits, options)


def _pixels(image: Any, options: ReadOptions) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or image.mode == "I":
        return np.repeat(_from_deep_grey(image)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ImageError(describe(image), "floating-point pixels have no defined range; convert it to RGB first")
    if image.mode == "La":
        image = image.convert("LA")
    if options.background is not None and (image.mode in _WITH_ALPHA or "transparency" in image.info):
        rgba = np.asarray(image.convert("RGBA"))
        return compose(rgba[:, :, :3], rgba[:, :, 3], options.background)
    if image.mode in _WITH_ALPHA:  # to RGB directly, PIL would blend, or lose the colour under transparency
        return np.asarray(image.convert("RGBA"))[:, :, :3]
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Any) -> Any:
    """EXIF's tag 'Orientation', from the file or set by the caller; damaged EXIF data are ignored.

    PIL falls back on XMP where EXIF has none. OpenCV does not read XMP, and neither do most viewers.
    """
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # PIL raises many kinds of error
        return 1
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    match = _ORIENTATION_IN_XMP.search(xmp.encode() if isinstance(xmp, str) else xmp)
    if match and int(match[1]) == value and read_orientation(image.info.get("exif", b"")) is None:
        return 1
    return value


def _from_deep_grey(image: Any) -> NDArray[np.uint8]:
    """16-bit grey -> 8-bit grey by the upper byte, as the decoder does it for files.

    Mode ``I`` has 32 bits and does not say how many are used: 16 are assumed, or 8 if all values fit.
    """
    values = np.asarray(image)
    largest = values.max() if values.size else 0
    if values.size and (values.min() < 0 or largest > 0xFFFF):
        raise ImageError(describe(image), "its grey values do not fit 16 bits; convert it to RGB first")
    if largest > 0xFF:
        return (values >> 8).astype(np.uint8)
    if image.mode == "I" or not largest:
        return values.astype(np.uint8)
    raise ImageError(
        describe(image), f"its grey values reach {largest} of 65535, which is black; convert it to L first"
    )

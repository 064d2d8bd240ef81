"""Path, URL, bytes, file object, PIL image or array -> RGB uint8, within limits."""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .._utils.urls import is_url, why_no_path, without_secrets
from ..errors import ImageError, InputError, OptionError
from .container import HeaderError
from .header import read_header

_OPEN_FILE = re.compile(r"/dev/stdin|/(dev|proc/self)/fd/\d+")
"""Files that this process has open already, as shells name them: ``<(curl ...)``."""
_LARGEST_LIMIT = 2**31
"""The decoder takes neither more bytes nor more pixels, whatever is allowed."""


@dataclass(frozen=True)
class ImageLimits:
    """What one image may cost at most; an image beyond a limit is an ``ImageError``, found before it is decoded."""

    max_bytes: int = 100 * 2**20
    """Encoded size."""
    max_pixels: int = 100_000_000
    """Width times height: what the largest cameras take; 300 MB decoded."""
    max_aspect_ratio: float = 200.0
    """Longer side to shorter; resizing the shorter side to 256 pixels makes the longer one this many times as long."""
    max_scans: float = 32.0
    """Scans of a progressive JPEG that has ``max_pixels``; one with half as many may have twice as many scans. Writers
    make about 10."""
    url_timeout: float = 30.0
    """Seconds for a whole download, redirects included."""
    max_redirects: int = 5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole = name in ("max_bytes", "max_pixels", "max_redirects")
            if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
                raise OptionError(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}.")
            if not (0 < float(value) <= _LARGEST_LIMIT or (value == 0 and name == "max_redirects")):
                raise OptionError(f"{name} must be above zero and at most {_LARGEST_LIMIT}, not {value!r}.")

    def check(self, source: Any, width: int, height: int) -> None:
        """Raise ``ImageError`` if an image of this size is too large."""
        if width < 1 or height < 1:
            raise ImageError(describe(source), "it has no pixels")
        if width * height > self.max_pixels:
            raise ImageError(
                describe(source),
                f"{width} x {height} pixels are more than the {self.max_pixels} that are decoded (max_pixels); "
                "make it smaller",
            )
        if max(width, height) > self.max_aspect_ratio * min(width, height):
            raise ImageError(
                describe(source),
                f"{width} x {height} pixels are too long and thin (at most {self.max_aspect_ratio:g} to 1, "
                "max_aspect_ratio); crop it",
            )

    def check_scans(self, source: Any, pixels: int, scans: int) -> None:
        """Raise ``ImageError`` if the decoder would go over an image's pixels too often."""
        if pixels * scans > self.max_scans * self.max_pixels:
            raise ImageError(
                describe(source),
                f"{scans} scans of {pixels} pixels are more than {self.max_scans:g} (max_scans) of {self.max_pixels} "
                "(max_pixels); save it again",
            )


def read_image(source: Any, limits: ImageLimits | None = None) -> NDArray[np.uint8]:
    """Return an image as RGB.

    EXIF orientation is honoured wherever there is one. Alpha is dropped, as the original drops it; grey and palette
    become colour, 16 bits become 8, and of an animation the first frame is taken; of an animated PNG its default image,
    which is the first frame in most. A truncated file is an error, not a half-grey picture.

    Args:
        source: a path, an ``http(s)`` URL, bytes, a binary file object (read from where it stands), a PIL image, or a
            uint8 array (H, W, 3) RGB, (H, W, 4) RGBA, (H, W, 1) or (H, W) grey. It is not changed.
        limits: what the image may cost.

    Returns:
        (H, W, 3) uint8, contiguous; a view of the caller's array where that is one already.

    Raises:
        ImageError: it cannot be read or is beyond a limit.
        InputError: it is no image of any of these kinds.
    """
    limits = limits or ImageLimits()
    if isinstance(source, np.ndarray):
        return _from_array(source, limits)
    if is_pil_image(source):
        return _from_pil(source, limits)
    return _decode(source, _encoded(source, limits), limits)


def describe(source: Any) -> str:
    """Name a source for messages: its path, its URL without password and query, or its kind and size."""
    if is_url(source):
        return without_secrets(source)
    if isinstance(source, str | PathLike):
        return os.fsdecode(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{memoryview(source).nbytes} bytes>"
    if isinstance(source, np.ndarray):
        return f"<array {' x '.join(map(str, source.shape))} {source.dtype}>"
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    if isinstance(name, str | PathLike):
        return os.fsdecode(name)
    return f"<{type(source).__name__}>"


def is_pil_image(source: Any) -> bool:
    """Whether this is a PIL image; PIL is not imported to find out."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(source, pil.Image)


def _encoded(source: Any, limits: ImageLimits) -> bytes:
    """The bytes of an encoded image."""
    if is_url(source):
        from .._utils.http import DownloadError, download_bytes

        try:
            data = download_bytes(
                source,
                max_bytes=limits.max_bytes,
                timeout=limits.url_timeout,
                max_redirects=limits.max_redirects,
            )
        except DownloadError as error:
            raise ImageError(describe(source), str(error)) from error
        return _bounded(source, data, len(data), limits)
    if isinstance(source, str | PathLike):
        return _read_path(source, limits)
    if isinstance(source, bytes | bytearray | memoryview):
        size = memoryview(source).nbytes
        return _bounded(source, bytes(source) if size <= limits.max_bytes else b"", size, limits)
    if hasattr(source, "read"):
        return _read_file(source, limits)
    raise InputError(
        f"{type(source).__name__} is no image; pass a path, a URL, bytes, a binary file, a PIL image or a uint8 array."
    )


def _read_path(path: str | PathLike[str], limits: ImageLimits) -> bytes:
    no_path = why_no_path(os.fsdecode(path), "the path of a file, or an http or https URL")
    if no_path is not None:
        raise ImageError(without_secrets(os.fsdecode(path)) or "''", f"it is {no_path}")
    try:
        path = Path(os.fsdecode(path))
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(describe(path), "it is a folder; pass it to predict() for all images in it")
        if not stat.S_ISREG(mode) and not _OPEN_FILE.fullmatch(str(path)):  # a pipe would wait for its other end
            raise ImageError(describe(path), "it is no regular file")
        with path.open("rb") as file:
            return _read_file(file, limits, describe(path))
    except FileNotFoundError as error:
        raise ImageError(describe(path), "there is no such file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(describe(path), f"it cannot be opened ({reason})") from error


def _read_file(file: IO[bytes], limits: ImageLimits, name: str | None = None) -> bytes:
    source = name or file
    data = bytearray()
    while len(data) <= limits.max_bytes:  # a raw file or a socket may give less than it was asked for
        try:
            part = file.read(limits.max_bytes + 1 - len(data))
        except Exception as error:  # a file object of the caller's own may raise anything
            raise ImageError(describe(source), f"it cannot be read ({error})") from error
        if not isinstance(part, bytes | bytearray | memoryview):
            raise ImageError(describe(source), "it gives no bytes; open it with mode 'rb', and blocking")
        if not len(part):
            break
        data += part
    return _bounded(source, bytes(data), len(data), limits)


def _bounded(source: Any, data: bytes, size: int, limits: ImageLimits) -> bytes:
    if size > limits.max_bytes:
        raise ImageError(
            describe(source),
            f"it has more than the {limits.max_bytes} bytes that are read (max_bytes); make it smaller",
        )
    if not size:
        raise ImageError(describe(source), "it is empty")
    return data


def _decode(source: Any, data: bytes, limits: ImageLimits) -> NDArray[np.uint8]:
    try:
        header = read_header(data)
        limits.check(source, header.width, header.height)
        limits.check_scans(source, header.width * header.height, header.scans)
        header.check_data()
    except HeaderError as error:
        raise ImageError(describe(source), str(error)) from error
    try:
        rgb: NDArray[Any] | None = cv2.imdecode(np.frombuffer(header.data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise ImageError(describe(source), f"it cannot be decoded ({error.err or error})") from error
    if rgb is None:
        raise ImageError(describe(source), "it is damaged, or of a kind of its format that cannot be decoded")
    limits.check(source, rgb.shape[1], rgb.shape[0])
    return rgb


def _from_array(array: NDArray[Any], limits: ImageLimits) -> NDArray[np.uint8]:
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
    return np.ascontiguousarray(array[:, :, :3])


def _from_pil(image: Any, limits: ImageLimits) -> NDArray[np.uint8]:
    limits.check(image, *image.size)
    try:
        image.load()  # a TIFF image is turned by that already, and then forgets its orientation
        orientation = _orientation(image)
        if image.mode.startswith("I;16") or image.mode == "I":
            pixels = _from_deep_grey(image)
        elif image.mode == "F":
            raise ImageError(describe(image), "floating-point pixels have no defined range; convert it to RGB first")
        else:
            pixels = np.asarray(image if image.mode == "RGB" else image.convert(_target_mode(image)))
    except ImageError:
        raise
    except Exception as error:  # a lazily loaded file may be damaged; PIL raises many kinds of error
        raise ImageError(describe(image), f"PIL cannot read it ({error})") from error
    return _from_array(_oriented(pixels, orientation), limits)


def _orientation(image: Any) -> Any:
    """EXIF's tag 'Orientation'; damaged EXIF data mean nothing, as they mean nothing to the decoder of files."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # PIL raises many kinds of error
        return 1


def _target_mode(image: Any) -> str:
    """RGB, by way of RGBA where PIL would otherwise blend or lose colour under transparency."""
    return "RGBA" if image.mode in ("LA", "La", "PA", "RGBa") else "RGB"


def _from_deep_grey(image: Any) -> NDArray[np.uint8]:
    """16-bit grey (which PIL may hold in 32 bits) -> 8-bit grey by the upper byte, as the decoder does it for files."""
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise ImageError(describe(image), "its grey values do not fit 16 bits; convert it to RGB first")
    return (values >> 8).astype(np.uint8)


def _oriented(pixels: NDArray[np.uint8], orientation: Any) -> NDArray[np.uint8]:
    """Turn and mirror pixels as EXIF orientation 1 to 8 says; other values mean nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels

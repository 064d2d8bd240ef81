"""Reads the preprocessing from an ``inference.yml``, which PaddleX and PaddleClas write next to an exported model."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from ..errors import OptionError
from ..images.preprocessing import Preprocessing
from ..labels import read_export_config

_BILINEAR = ("", "bilinear", "linear", "1")
_IGNORED = ("DecodeImage", "ToCHWImage", "KeepKeys")
_STEPS = ("ResizeImage", "CropImage", "NormalizeImage")


def read_exported_preprocessing(path: str | PathLike[str]) -> Preprocessing | None:
    """Return the preprocessing of an ``inference.yml``; ``None`` where it has none.

    Raises:
        LabelsError: the file cannot be read.
        OptionError: its steps are other than a bilinear resize of the short side, a centre crop and normalisation.
    """
    content = read_export_config(path).get("PreProcess")
    if content is None:
        return None
    try:
        return _preprocessing(content)
    except (TypeError, ValueError, ZeroDivisionError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise OptionError(
            f"{path} asks for preprocessing that ghostzoo does not support ({reason[:200]}); pass its labels as text, "
            "and the sizes as options."
        ) from error


def _preprocessing(content: Any) -> Preprocessing:
    if not isinstance(content, dict) or not isinstance(content.get("transform_ops"), list):
        raise ValueError("no transform_ops")
    steps: dict[str, Mapping[str, Any]] = {}
    for step in content["transform_ops"]:
        ((name, options),) = step.items() if isinstance(step, dict) else ((step, {}),)
        if not isinstance(name, str) or name in steps or name not in (*_STEPS, *_IGNORED):
            raise ValueError(f"the step {str(name)[:60]!r}")
        steps[name] = options if isinstance(options, dict) else {}
    if [name for name in steps if name in _STEPS] != list(_STEPS):
        raise ValueError(f"other steps than {', '.join(_STEPS)}")
    resize, crop, normalize = (steps[name] for name in _STEPS)
    if str(resize.get("interpolation", "")).lower() not in _BILINEAR or resize.get("backend", "cv2") != "cv2":
        raise ValueError(f"interpolation {resize.get('interpolation', '')!r} of {resize.get('backend', 'cv2')!r}")
    if crop.get("mode", "C") != "C" or normalize.get("channel_num", "3") != "3":
        raise ValueError("another crop than the centre, or other than three channels")
    return Preprocessing(
        resize_short=int(resize["resize_short"]),
        crop_size=_square(crop["size"]),
        rescale_factor=_number(normalize.get("scale", "1/255")),
        mean=_channels(normalize.get("mean", Preprocessing.mean)),
        std=_channels(normalize.get("std", Preprocessing.std)),
    )


def _square(size: Any) -> int:
    sides = {int(side) for side in (size if isinstance(size, list) else [size])}
    if len(sides) != 1:
        raise ValueError(f"a crop of {sorted(sides)}")
    return sides.pop()


def _channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(_number, values)
    return red, green, blue


def _number(value: Any) -> float:
    """Parse a number or a quotient; PaddleClas evaluates strings such as ``1.0/255.0``."""
    dividend, _, divisor = str(value).partition("/")
    return float(dividend) / float(divisor or 1)

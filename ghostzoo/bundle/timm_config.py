"""The ``config.json`` that timm writes beside a model's weights: what is taken from it, and how one is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import OptionError
from ..images.preprocessing import BICUBIC, Preprocessing
from ..labels import ClassLabel, read_timm_config
from ..network.architecture import Architecture

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
"""What timm writes of a model, and reads."""

_SIZE, _CROP_PCT = 224, 0.875
"""timm's defaults, which all its models of these families have."""


def read_timm_preprocessing(path: Any) -> Preprocessing:
    """Return the preprocessing of timm's evaluation, as a ``config.json`` describes it.

    Raises:
        LabelsError: the file cannot be read.
        OptionError: it asks for another resize than Pillow's bicubic one and a centre crop.
    """
    config = read_timm_config(path)
    described = config.get("pretrained_cfg", config)
    try:
        return _preprocessing(described if isinstance(described, dict) else {})
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise OptionError(
            f"{path} asks for preprocessing that ghostzoo does not support ({str(error)[:200]}); give the sizes as "
            "options if the weights were trained for another."
        ) from error


def _preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    channels, height, width = config.get("input_size", (3, _SIZE, _SIZE))
    if channels != 3 or height != width:
        raise ValueError(f"an input of {channels} x {height} x {width}")
    for key, usual in (("interpolation", BICUBIC), ("crop_mode", "center")):
        if config.get(key, usual) != usual:
            raise ValueError(f"{key} {config[key]!r} instead of {usual!r}")
    crop = int(height)
    return Preprocessing(
        resize_short=math.floor(crop / float(config.get("crop_pct", _CROP_PCT))),
        crop_size=crop,
        rescale_factor=1 / 255,
        mean=_channels(config.get("mean", Preprocessing.mean)),
        std=_channels(config.get("std", Preprocessing.std)),
        interpolation=BICUBIC,
    )


def _channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def timm_config(architecture: Architecture, labels: Sequence[ClassLabel], preprocessing: Preprocessing) -> bytes:
    """Return a ``config.json`` with which timm loads the weights beside it."""
    content: dict[str, Any] = {
        "architecture": architecture.name,
        "num_classes": architecture.num_classes,
        "num_features": architecture.last_channels,
        "label_names": [label.wnid or label.label for label in labels],
        "label_descriptions": {label.wnid: label.label for label in labels if label.wnid},
        "pretrained_cfg": {
            "tag": "ghostzoo",
            "custom_load": False,
            "input_size": [3, preprocessing.crop_size, preprocessing.crop_size],
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_size / preprocessing.resize_short,
            "crop_mode": "center",
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "num_classes": architecture.num_classes,
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
    }
    if not content["label_descriptions"]:
        del content["label_descriptions"]
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()

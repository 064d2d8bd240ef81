"""``config.json`` and ``preprocessor_config.json``: the model and its preprocessing in the Hub's conventions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import BundleError
from ..images.preprocessing import BICUBIC, BILINEAR, MAX_IMAGE_SIZE, Preprocessing
from ..labels import ClassLabel
from ..network.architecture import EMBEDDING_SIZE, Architecture
from ..network.families import FAMILIES, PADDLE_GHOSTNET, Family
from .manifest import parse_json_object

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"

MAX_CLASSES = 1_000_000
_MULTI_LABEL = "multi_label_classification"
_RESAMPLE = {BILINEAR: 2, BICUBIC: 3}  # PIL's constants, as the Hub's image processors use them


@dataclass(frozen=True)
class ModelConfig:
    """The content of ``config.json``."""

    width: float
    image_size: int
    """Side of the square input in pixels."""
    labels: tuple[ClassLabel, ...] = field(repr=False)
    multi_label: bool = False
    """Whether an image shows any number of the classes, and not just one."""
    family: Family = PADDLE_GHOSTNET

    @property
    def architecture(self) -> Architecture:
        return Architecture.of(self.width, len(self.labels), self.family)

    def to_json(self) -> bytes:
        content: dict[str, Any] = {
            # A type of its own: libraries that do not know GhostNet fail instead of building another network.
            "model_type": "ghostnet",
            "architectures": ["GhostNetForImageClassification"],
            "family": self.family.name,
            "width": self.width,
            "image_size": self.image_size,
            "num_channels": 3,
            "hidden_size": EMBEDDING_SIZE,
            "id2label": {str(index): label.label for index, label in enumerate(self.labels)},
            "label2id": {label.label: index for index, label in reversed(list(enumerate(self.labels)))},
        }
        if any(label.wnid for label in self.labels):
            content["id2wnid"] = {str(index): label.wnid for index, label in enumerate(self.labels) if label.wnid}
        if self.multi_label:
            content["problem_type"] = _MULTI_LABEL
        return _dump(content)

    @classmethod
    def from_json(cls, data: bytes) -> ModelConfig:
        """Parse and check ``config.json``.

        Raises:
            BundleError: a field is missing or has an invalid value.
        """
        content = parse_json_object(data, CONFIG_FILE)
        if content.get("model_type") != "ghostnet":
            raise _wrong(CONFIG_FILE, "model_type", content.get("model_type"))
        family = content.get("family", PADDLE_GHOSTNET.name)  # which older bundles do not say
        if not isinstance(family, str) or family not in FAMILIES:
            raise _wrong(CONFIG_FILE, "family", family)
        problem_type = content.get("problem_type")
        if problem_type not in (None, "single_label_classification", _MULTI_LABEL):
            raise _wrong(CONFIG_FILE, "problem_type", problem_type)
        names, wnids = content.get("id2label"), content.get("id2wnid", {})
        if not isinstance(names, dict) or not 1 <= len(names) <= MAX_CLASSES or not isinstance(wnids, dict):
            raise _wrong(CONFIG_FILE, "id2label", type(names).__name__)
        labels = []
        for index in map(str, range(len(names))):
            name, wnid = names.get(index), wnids.get(index)
            if not isinstance(name, str) or not (wnid is None or isinstance(wnid, str)):
                raise _wrong(CONFIG_FILE, f"id2label[{index}]", name)
            labels.append(ClassLabel(name, wnid))
        return cls(
            width=_number(content, CONFIG_FILE, "width", 0.01, 64),
            image_size=_pixels(content, CONFIG_FILE, "image_size"),
            labels=tuple(labels),
            multi_label=problem_type == _MULTI_LABEL,
            family=FAMILIES[family],
        )


def preprocessing_to_json(preprocessing: Preprocessing) -> bytes:
    """Serialise as the Hub's ``BitImageProcessor``: short side, centre crop, rescale, normalise."""
    return _dump(
        {
            "image_processor_type": "BitImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": preprocessing.resize_short},
            "resample": _RESAMPLE[preprocessing.interpolation],
            "do_center_crop": True,
            "crop_size": {"height": preprocessing.crop_size, "width": preprocessing.crop_size},
            "do_rescale": True,
            "rescale_factor": preprocessing.rescale_factor,
            "do_normalize": True,
            "image_mean": list(preprocessing.mean),
            "image_std": list(preprocessing.std),
        }
    )


def preprocessing_from_json(data: bytes) -> Preprocessing:
    """Parse and check ``preprocessor_config.json``.

    Raises:
        BundleError: a field is missing, has an invalid value, or asks for a step that ghostzoo does not support.
    """
    name = PREPROCESSOR_FILE
    content = parse_json_object(data, name)
    for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if content.get(step) is not True:
            raise _wrong(name, step, content.get(step))
    resample = content.get("resample")
    interpolation = next((name for name, number in _RESAMPLE.items() if number == resample), None)
    if interpolation is None or isinstance(resample, bool):
        raise _wrong(name, "resample", resample)
    size, crop = content.get("size"), content.get("crop_size")
    if not isinstance(size, dict) or not isinstance(crop, dict) or crop.get("height") != crop.get("width"):
        raise _wrong(name, "size and crop_size", (size, crop))
    resize_short, crop_size = _pixels(size, name, "shortest_edge"), _pixels(crop, name, "height")
    if crop_size > resize_short:
        raise _wrong(name, "crop_size", crop)
    return Preprocessing(
        resize_short=resize_short,
        crop_size=crop_size,
        rescale_factor=_number(content, name, "rescale_factor", 1e-9, 1e9),
        mean=_channels(content, "image_mean", -1e6),
        std=_channels(content, "image_std", 1e-9),
        interpolation=interpolation,
    )


def _dump(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _wrong(file: str, key: str, value: object) -> BundleError:
    return BundleError(
        f"{file} has {key} = {str(value)[:80]!r}, which ghostzoo cannot use; download or convert the model again."
    )


def _number(content: Mapping[str, Any], file: str, key: str, low: float, high: float) -> float:
    value = content.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(file, key, value)
    return float(value)


def _pixels(content: Mapping[str, Any], file: str, key: str) -> int:
    value = content.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_IMAGE_SIZE:
        raise _wrong(file, key, value)
    return value


def _channels(content: Mapping[str, Any], key: str, low: float) -> tuple[float, float, float]:
    values: Sequence[Any] | None = content.get(key)
    if not isinstance(values, list) or len(values) != 3:
        raise _wrong(PREPROCESSOR_FILE, key, values)
    red, green, blue = (_number({key: value}, PREPROCESSOR_FILE, key, low, 1e6) for value in values)
    return red, green, blue

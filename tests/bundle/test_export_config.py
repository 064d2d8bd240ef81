"""The preprocessing of exported Paddle models: taken as it is, or refused where ghostzoo does otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghostzoo.bundle.export_config import read_exported_preprocessing
from ghostzoo.errors import LabelsError, OptionError
from ghostzoo.images.preprocessing import Preprocessing

EXPORT = """
PreProcess:
  transform_ops:
  - DecodeImage:
      channel_first: false
      to_rgb: true
  - ResizeImage:
      resize_short: 288
      interpolation: bilinear
      backend: cv2
  - CropImage:
      size: 256
  - NormalizeImage:
      channel_num: 3
      mean: [0.5, 0.4, 0.3]
      order: ''
      scale: 0.00392156862745098
      std:
      - 0.1
      - 0.2
      - 0.25
  - ToCHWImage: null
PostProcess:
  Topk: {topk: 5, label_list: [cat, dog, frog]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "inference.yml"
    path.write_text(text, encoding="utf-8")
    return path


def test_preprocessing_is_taken_exactly(tmp_path: Path) -> None:
    expected = Preprocessing(288, 256, 1 / 255, (0.5, 0.4, 0.3), (0.1, 0.2, 0.25))
    assert read_exported_preprocessing(write(tmp_path, EXPORT)) == expected


@pytest.mark.parametrize(
    ("old", "new", "factor"),
    [
        ("scale: 0.00392156862745098", "scale: 1.0/255.0", 1 / 255),
        ("scale: 0.00392156862745098", "scale: 0.00392157", 0.00392157),
        ("      scale: 0.00392156862745098\n", "", 1 / 255),
    ],
)
def test_every_spelling_of_the_scale_is_read(old: str, new: str, factor: float, tmp_path: Path) -> None:
    found = read_exported_preprocessing(write(tmp_path, EXPORT.replace(old, new)))
    assert found is not None
    assert found.rescale_factor == factor


def test_defaults_are_those_of_the_exporter(tmp_path: Path) -> None:
    text = """
PreProcess:
  transform_ops: [{ResizeImage: {resize_short: 256}}, {CropImage: {size: [224, 224]}}, NormalizeImage, ToCHWImage]
"""
    assert read_exported_preprocessing(write(tmp_path, text)) == Preprocessing(rescale_factor=1 / 255)


def test_a_file_without_preprocessing_has_none(tmp_path: Path) -> None:
    assert read_exported_preprocessing(write(tmp_path, "PostProcess: {}")) is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("resize_short: 288", "size: [160, 80]", "resize_short"),
        ("interpolation: bilinear", "interpolation: bicubic", "interpolation 'bicubic' of 'cv2'"),
        ("backend: cv2", "backend: pil", "interpolation 'bilinear' of 'pil'"),
        ("size: 256", "size: [256, 128]", "a crop of"),
        ("size: 256", "size: 256\n      mode: TL", "another crop"),
        ("size: 256", "size: large", "invalid literal"),
        ("channel_num: 3", "channel_num: 1", "other than three channels"),
        ("mean: [0.5, 0.4, 0.3]", "mean: [0.5]", "not enough values"),
        ("mean: [0.5, 0.4, 0.3]", "mean: half", "could not convert"),
        ("scale: 0.00392156862745098", "scale: 1/0", "division"),
        ("ToCHWImage", "RandomErasing", "the step 'RandomErasing'"),
        ("CropImage", "ResizeImage", "the step 'ResizeImage'"),
        ("  - CropImage:\n      size: 256\n", "", "other steps than ResizeImage, CropImage, NormalizeImage"),
        ("transform_ops", "ops", "no transform_ops"),
    ],
)
def test_other_preprocessing_is_refused_by_name(old: str, new: str, reason: str, tmp_path: Path) -> None:
    assert old in EXPORT
    path = write(tmp_path, EXPORT.replace(old, new))
    with pytest.raises(OptionError, match=r"asks for preprocessing that ghostzoo does not support") as error:
        read_exported_preprocessing(path)
    assert reason in str(error.value)
    assert str(path) in str(error.value)


def test_impossible_numbers_are_refused(tmp_path: Path) -> None:
    for old, new in (("size: 256", "size: 1000"), ("scale: 0.00392156862745098", "scale: nan"), ("- 0.2", "- 0")):
        with pytest.raises(OptionError):
            read_exported_preprocessing(write(tmp_path, EXPORT.replace(old, new)))
    with pytest.raises(LabelsError, match=r"Cannot read .*check the path"):
        read_exported_preprocessing(tmp_path / "missing.yml")

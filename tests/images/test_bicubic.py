"""The preprocessing of timm's weights is timm's own to the bit, in any version of Pillow."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ghostzoo.errors import OptionError
from ghostzoo.images.bicubic import resize_window
from ghostzoo.images.decode import read_image
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess

HASHES: dict[str, str] = json.loads(Path(__file__).with_name("timm_pixels.json").read_bytes())


def test_photographs_become_what_timm_makes_of_them(shared: Path) -> None:
    photos = {path.name: path for path in (shared / "images").glob("*/*")}
    with ThreadPoolExecutor(4) as pool:
        tensors = pool.map(lambda name: preprocess(read_image(photos[name]), Preprocessing.timm()), HASHES)
        hashes = {name: hashlib.sha256(each.tobytes()).hexdigest() for name, each in zip(HASHES, tensors, strict=True)}
    assert len(hashes) == 57
    assert hashes == HASHES


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 40), (40, 1), (256, 256), (255, 257), (512, 512), (700, 90), (90, 700), (1500, 1100)]
)
@pytest.mark.parametrize("sizes", [(256, 224), (64, 64), (73, 40), (5, 1)])
def test_any_size_becomes_what_pillow_makes_of_it(shape: tuple[int, int], sizes: tuple[int, int]) -> None:
    short, crop = sizes
    edges = np.random.default_rng(0).integers(0, 2, (*shape, 3), np.uint8) * 255  # the filter overshoots
    height, width = (int(short * side / min(shape)) for side in shape)
    narrow = Image.fromarray(edges).resize((width, shape[0]), Image.Resampling.BICUBIC)
    whole = np.asarray(narrow.resize((width, height), Image.Resampling.BICUBIC))
    for top, left in ((0, 0), (height - crop, width - crop), ((height - crop) // 3, (width - crop) // 3)):
        window = resize_window(edges, (height, width), (top, left), crop)
        np.testing.assert_array_equal(window, whole[top : top + crop, left : left + crop])


def test_the_place_of_the_crop_is_rounded_half_to_even() -> None:
    config = Preprocessing.timm(crop_size=4, crop_pct=0.8)
    assert (config.resize_short, config.crop_size) == (5, 4)
    ramp = np.repeat(np.arange(5 * 7, dtype=np.uint8).reshape(5, 7, 1), 3, axis=2)  # is not resized
    pixels = preprocess(ramp, config)[0] * np.float32(config.std[0]) + np.float32(config.mean[0])
    np.testing.assert_array_equal(np.rint(pixels * 255), ramp[0:4, 2:6, 0])  # of 0.5 and 1.5 pixels


def test_another_interpolation_is_refused() -> None:
    with pytest.raises(OptionError, match="must be bilinear or bicubic, not 'lanczos'"):
        Preprocessing(interpolation="lanczos")

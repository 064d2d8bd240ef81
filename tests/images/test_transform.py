from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ghostzoo.errors import OptionError
from ghostzoo.images.decode import read_image
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess


def test_equals_the_original_bit_for_bit(shared: Path) -> None:
    with np.load(shared / "reference" / "preprocessed.npz") as reference:
        assert len(reference.files) == 7
        for name in reference.files:
            tensor = preprocess(read_image(shared / "images" / "photos" / name), Preprocessing())
            np.testing.assert_array_equal(tensor, reference[name], err_msg=name)


@pytest.mark.parametrize("shape", [(256, 256), (300, 200), (201, 333), (1, 1), (3, 500), (1023, 767)])
@pytest.mark.parametrize("sizes", [(256, 224), (64, 64), (72, 65)])
def test_equals_the_formula(shape: tuple[int, int], sizes: tuple[int, int]) -> None:
    import cv2

    config = Preprocessing(resize_short=sizes[0], crop_size=sizes[1])
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    scale = sizes[0] / min(shape)
    width, height = round(shape[1] * scale), round(shape[0] * scale)
    resized = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR)
    top, left = (height - sizes[1]) // 2, (width - sizes[1]) // 2
    window = resized[top : top + sizes[1], left : left + sizes[1]].astype(np.float32)
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    expected = ((window * np.float32(0.00392157) - mean) / std).transpose(2, 0, 1)
    np.testing.assert_array_equal(preprocess(rgb, config), expected)


def test_the_image_is_left_alone_and_the_result_is_new() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    rgb.flags.writeable = False
    first, second = preprocess(rgb, Preprocessing()), preprocess(rgb, Preprocessing())
    first[:] = 0
    assert second.any()
    assert second.flags.c_contiguous
    assert second.dtype == np.float32


def test_it_writes_into_what_it_is_given() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    batch = np.full((2, 3, 224, 224), np.nan, np.float32)
    assert preprocess(rgb, Preprocessing(), out=batch[1]).base is batch
    assert np.isnan(batch[0]).all()
    np.testing.assert_array_equal(batch[1], preprocess(rgb, Preprocessing()))


@pytest.mark.parametrize("sizes", [(200, 224), (0, 0), (10**6, 224)])
def test_senseless_sizes_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(OptionError, match="crop"):
        Preprocessing(resize_short=sizes[0], crop_size=sizes[1])

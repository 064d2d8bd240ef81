from __future__ import annotations

import cv2
import numpy as np
import pytest

from exporters.training.augmentation import OPERATIONS, Image, flip, rand_augment, random_resized_crop, sharpen

OPERATION = {operation.__name__.strip("_"): operation for operation in OPERATIONS}
SLOPE = np.add.outer(np.arange(40) * 3, np.arange(36) * 2)
GRADIENT = np.dstack([SLOPE, SLOPE + 20, SLOPE + 50]).astype(np.uint8)
EDGE_CASES = {
    "black": np.zeros((32, 32, 3), np.uint8),
    "white": np.full((32, 32, 3), 255, np.uint8),
    "flat": np.full((32, 32, 3), (10, 128, 250), np.uint8),
    "gradient": GRADIENT,
    "noise": np.random.default_rng(0).integers(0, 256, (33, 35, 3), np.uint8),
    "mirrored view": GRADIENT[:, ::-1],
}


@pytest.mark.parametrize("image", EDGE_CASES.values(), ids=EDGE_CASES.keys())
@pytest.mark.parametrize("name", OPERATION)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_operations_return_a_new_image_and_keep_their_input(name: str, image: Image, strength: float) -> None:
    before = image.copy()
    for sign in (-1.0, 1.0):
        result = OPERATION[name](image, strength, sign)
        assert result.dtype == np.uint8
        assert result.shape == image.shape
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", sorted(OPERATION.keys() - {"autocontrast", "equalise"}))
def test_no_strength_is_no_change(name: str) -> None:
    for image in EDGE_CASES.values():
        assert np.array_equal(OPERATION[name](image, 0.0, 1.0), image)


@pytest.mark.parametrize("name", OPERATION)
def test_full_strength_changes_a_picture(name: str) -> None:
    assert not np.array_equal(OPERATION[name](GRADIENT, 1.0, 1.0), GRADIENT)


@pytest.mark.parametrize("name", ["autocontrast", "equalise"])
def test_a_flat_image_has_no_contrast_to_change(name: str) -> None:
    flat = EDGE_CASES["flat"]
    assert np.array_equal(OPERATION[name](flat, 1.0, 1.0), flat)


def test_autocontrast_stretches_each_channel_to_the_full_range() -> None:
    stretched = OPERATION["autocontrast"](GRADIENT, 1.0, 1.0)
    assert stretched.min(axis=(0, 1)).tolist() == [0, 0, 0]
    assert stretched.max(axis=(0, 1)).tolist() == [255, 255, 255]


def test_what_operations_mean() -> None:
    noise = EDGE_CASES["noise"]
    grey = OPERATION["colour"](noise, 10 / 9, -1.0)
    assert (grey.max(axis=2) - grey.min(axis=2)).max() <= 1
    assert not OPERATION["brightness"](noise, 10 / 9, -1.0).any()
    assert OPERATION["contrast"](noise, 10 / 9, -1.0).std() < 1
    assert np.array_equal(OPERATION["solarise"](noise, 1.0, 1.0), 255 - noise)
    assert not (OPERATION["posterise"](noise, 1.0, 1.0) & 0x0F).any()
    blurred = cv2.blur(noise, (3, 3)).astype(int)
    assert OPERATION["sharpness"](noise, 10 / 9, -1.0).astype(int) == pytest.approx(blurred, abs=1)


def test_geometric_operations_fill_with_the_mean_colour() -> None:
    down = OPERATION["translate_y"](GRADIENT, 1.0, 1.0)
    assert np.array_equal(down[18:], GRADIENT[:-18])  # 0.45 of 40 rows
    assert (down[:18] == (124, 116, 104)).all()
    up = OPERATION["translate_y"](GRADIENT, 1.0, -1.0)
    assert np.array_equal(up[:-18], GRADIENT[18:])
    right = OPERATION["translate_x"](GRADIENT[:, :20].copy(), 1.0, 1.0)
    assert np.array_equal(right[:, 9:], GRADIENT[:, :11])
    turned = OPERATION["rotate"](OPERATION["rotate"](GRADIENT, 1.0, 1.0), 1.0, -1.0)
    assert turned[14:26, 12:24].astype(int) == pytest.approx(GRADIENT[14:26, 12:24].astype(int), abs=2)
    assert (OPERATION["rotate"](GRADIENT, 1.0, 1.0)[0, 0] == (124, 116, 104)).all()


def test_rand_augment_is_drawn_from_its_generator_alone() -> None:
    def draw(seed: int) -> list[Image]:
        rng = np.random.default_rng(seed)
        return [rand_augment(rng, GRADIENT, 2, 9.0) for _ in range(10)]

    first, again, other = draw(1), draw(1), draw(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert len({image.tobytes() for image in first}) > 5


@pytest.mark.parametrize("shape", [(32, 32), (1, 1), (1, 300), (300, 1), (17, 40), (500, 30)])
@pytest.mark.parametrize("smallest", [0.01, 0.08, 1.0])
def test_a_crop_is_a_square_of_the_size_from_any_image(shape: tuple[int, int], smallest: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for seed in range(5):
        crop = random_resized_crop(np.random.default_rng(seed), image, 48, smallest)
        assert crop.shape == (48, 48, 3)
        assert crop.dtype == np.uint8


def test_crops_respect_minimum_area_and_aspect_ratio() -> None:
    """Every pixel of the picture is another colour, so a crop tells where it is from."""
    side = 200
    rows, columns = np.mgrid[:side, :side].astype(np.uint8)
    image = np.dstack([rows, columns, rows])
    for seed in range(50):
        crop = random_resized_crop(np.random.default_rng(seed), image, 100, 0.25)
        height, width = (float(np.ptp(crop[..., channel])) + 1 for channel in (0, 1))
        assert height * width >= 0.24 * side * side
        assert 0.72 < width / height < 1.4


def test_random_interpolation_uses_several_methods() -> None:
    """A step between two colours stays a step, becomes a ramp, or overshoots: the values tell the methods apart."""
    image = np.full((8, 8, 3), 50, np.uint8)
    image[:, 4:] = 200
    crops = [
        random_resized_crop(np.random.default_rng(seed), image, 32, 1.0, any_interpolation=True) for seed in range(60)
    ]
    assert any(set(np.unique(crop)) == {50, 200} for crop in crops)  # nearest
    assert any(50 < np.unique(crop)[1] < 200 and crop.min() == 50 for crop in crops)  # linear
    assert any(crop.min() < 50 and crop.max() > 200 for crop in crops)  # cubic and Lanczos
    plain = [random_resized_crop(np.random.default_rng(seed), image, 32, 1.0) for seed in range(60)]
    assert all(crop.min() == 50 and crop.max() == 200 for crop in plain)


def test_flips_are_every_second_time() -> None:
    rng = np.random.default_rng(0)
    flipped = [np.array_equal(flip(rng, GRADIENT), GRADIENT[:, ::-1]) for _ in range(400)]
    assert 160 < sum(flipped) < 240


def test_sharpening_goes_both_ways() -> None:
    noise = EDGE_CASES["noise"]
    detail = [
        float(cv2.Laplacian(sharpen(np.random.default_rng(seed), noise, 1.0), cv2.CV_32F).std()) for seed in range(20)
    ]
    own = float(cv2.Laplacian(noise, cv2.CV_32F).std())
    assert min(detail) < 0.8 * own
    assert max(detail) > 1.05 * own
    flat = EDGE_CASES["flat"]
    assert (sharpen(np.random.default_rng(0), flat, 1.0) == flat).all()

"""Large images are decoded into memory that was used before, and never into memory that is in use."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from ghostzoo.errors import ImageError
from ghostzoo.images import buffers, pixels
from ghostzoo.images.decode import read_image
from tests.fixtures.pictures import encoded, picture

needs_files_in_memory = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has files in memory")


@pytest.fixture(autouse=True)
def _medium_images_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_LARGE", 2**20)


def photo(number: int) -> bytes:
    return encoded(picture(1300, 1200).rotate(90 * number), "JPEG", quality=90)


def plain(data: bytes) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))


def free() -> int:
    gc.collect()
    return sum(block.nbytes for block in tuple(buffers._free))


@needs_files_in_memory
@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("WEBP", "RGBA")]
    + [("PNG", mode) for mode in ("RGB", "L", "RGBA", "P", "I;16")],
)
def test_the_pixels_are_those_that_the_decoder_gives_otherwise(kind: str, mode: str) -> None:
    data = encoded(picture(1300, 1200).convert(mode), kind)
    for _ in range(2):
        np.testing.assert_array_equal(read_image(data), plain(data))


@needs_files_in_memory
def test_memory_is_used_again_once_nobody_holds_the_image() -> None:
    data = photo(0)
    first = read_image(data)
    address = first.ctypes.data
    view = first[5:, :, 1]
    kept = view.copy()
    del first
    other = read_image(photo(1))
    assert not np.shares_memory(other, view)
    np.testing.assert_array_equal(view, kept)
    del view
    gc.collect()
    assert read_image(data).ctypes.data == address


@needs_files_in_memory
def test_threads_never_share_memory() -> None:
    files = [photo(number) for number in range(4)]
    expected = [plain(data) for data in files]

    def check(number: int) -> bool:
        mine = read_image(files[number % 4])
        return bool(np.array_equal(mine, expected[number % 4])) and mine.base is not None

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(80)))
    assert free() <= buffers._MOST_KEPT


def test_little_memory_is_kept() -> None:
    side = 4000
    images = [buffers.new_image(side, side, 3) for _ in range(6)]
    images.append(buffers.new_image(2 * side, side, 3))  # too large to be kept
    del images
    assert free() <= buffers._MOST_KEPT
    assert max(block.nbytes for block in buffers._free) <= buffers._LARGEST_KEPT


def test_a_small_image_does_not_hold_a_large_block() -> None:
    del [buffers.new_image(4000, 4000, 3)][0]
    small = buffers.new_image(1000, 1000, 3)
    assert small.base is not None
    assert small.base.nbytes <= 2 * small.nbytes
    assert buffers.new_image(10, 10, 3).base is None
    assert free() >= 4000 * 4000 * 3, "the large one waits for a large image"


@needs_files_in_memory
@pytest.mark.parametrize("damage", ["frame", "table", "pixels"])
def test_a_damaged_file_never_shows_the_image_before_it(damage: str) -> None:
    data = bytearray(photo(0))
    read_image(bytes(data))
    start = data.index({"frame": b"\xff\xc0", "table": b"\xff\xdb", "pixels": b"\xff\xda"}[damage])
    if damage == "frame":
        data[start + 4] = 77  # bits a sample
    elif damage == "table":
        data[start + 4] = 0x7F
    else:
        data[start + 5 : start + 11] = b"\x09" * 6
    with pytest.raises(ImageError, match="damaged, or of a kind"):
        read_image(bytes(data))


def test_without_files_in_memory_images_are_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(pixels.os, "memfd_create", fail, raising=False)  # type: ignore[attr-defined]
    data = photo(2)
    np.testing.assert_array_equal(read_image(data), plain(data))


def test_an_image_of_large_pixels_from_pil_is_the_callers_own() -> None:
    image = Image.new("RGB", (1300, 1200), (1, 2, 3))
    first, second = read_image(image), read_image(image)
    assert not np.shares_memory(first, second)

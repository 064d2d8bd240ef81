from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ghostzoo.errors import ImageError, InputError
from ghostzoo.images.decode import ImageLimits, describe, read_image
from tests.fixtures.pictures import FORMATS, encoded, noise, picture
from tests.images.test_orientation import TURNS

PNG = encoded(picture(), "PNG")
JPEG = encoded(picture(), "JPEG")
PIXELS = np.asarray(picture())


def with_alpha() -> Image.Image:
    image = picture()
    image.putalpha(Image.fromarray(noise()))
    return image


def see_through_palette() -> Image.Image:
    image = picture().quantize(16)
    image.info["transparency"] = 3
    return image


def assert_alike(first: NDArray[Any], second: NDArray[Any], tolerance: int = 0) -> None:
    assert first.shape == second.shape
    assert np.abs(first.astype(int) - second).max() <= tolerance


@pytest.mark.parametrize(
    "name", ["a.png", "mit Leerzeichen.PNG", "日本語-猫-🐈.png", "é.jpg", "no-suffix", "[1]*?.png"]
)
def test_every_way_to_name_the_same_file_gives_the_same_pixels(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PNG)
    for source in (path, str(path), PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG), Image.open(path), PIXELS):
        rgb = read_image(source)
        np.testing.assert_array_equal(rgb, PIXELS)
        assert rgb.dtype == np.uint8
        assert rgb.flags.c_contiguous
    with path.open("rb") as buffered, path.open("rb", buffering=0) as raw, tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(PNG)
        spooled.seek(0)
        for file in (buffered, raw, spooled):
            np.testing.assert_array_equal(read_image(file), PIXELS)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file names as bytes")
def test_a_file_name_that_is_no_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(PNG)
    (entry,) = os.scandir(os.fsencode(tmp_path))
    np.testing.assert_array_equal(read_image(str(path)), PIXELS)
    np.testing.assert_array_equal(read_image(entry), PIXELS)


def test_a_file_object_is_read_from_its_position_not_closed() -> None:
    file = io.BytesIO(b"header" + PNG)
    file.seek(6)
    np.testing.assert_array_equal(read_image(file), PIXELS)
    assert not file.closed
    assert file.tell() == 6 + len(PNG)


class Trickle(io.RawIOBase):
    """A stream that gives less than it is asked for, as sockets do."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def read(self, size: int = -1) -> bytes:
        part, self._rest = self._rest[:100], self._rest[100:]
        return part


def test_a_stream_that_gives_little_at_a_time_is_read_to_its_end() -> None:
    np.testing.assert_array_equal(read_image(Trickle(PNG)), PIXELS)
    with pytest.raises(ImageError, match="more than the 250 bytes"):
        read_image(Trickle(PNG), ImageLimits(max_bytes=250))


@pytest.mark.parametrize("orientation", range(10))
def test_a_tiff_is_turned_alike_for_paths_bytes_and_pil(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = read_image(encoded(picture(), "TIFF"))
    data = encoded(picture(), "TIFF", exif=exif)
    path = tmp_path / "turned"
    path.write_bytes(data)
    expected = TURNS[orientation](upright) if orientation in TURNS else upright
    for source in (path, data, io.BytesIO(data), Image.open(path)):
        assert_alike(read_image(source), expected)


def test_orientation_set_on_a_pil_image_is_honoured() -> None:
    image = picture()
    image.getexif()[0x0112] = 3
    np.testing.assert_array_equal(read_image(image), PIXELS[::-1, ::-1])
    assert image.getexif()[0x0112] == 3


def test_damaged_exif_means_nothing() -> None:
    rubbish = b"Exif\0\0XX\0*rubbish"
    data = JPEG[:2] + b"\xff\xe1" + (len(rubbish) + 2).to_bytes(2) + rubbish + JPEG[2:]
    np.testing.assert_array_equal(read_image(data), read_image(JPEG))
    np.testing.assert_array_equal(read_image(Image.open(io.BytesIO(data))), read_image(JPEG))


GREY = np.repeat(np.asarray(picture().convert("L"))[:, :, None], 3, axis=2)
DEEP = noise().astype(np.uint16) * 256 + 200
MODES: dict[str, tuple[Callable[[], Image.Image], list[str], NDArray[np.uint8] | None]] = {
    "1": (lambda: picture().convert("1"), ["PNG", "TIFF", "BMP", "PPM"], None),
    "L": (lambda: picture().convert("L"), ["PNG", "JPEG", "TIFF", "PPM", "JPEG2000"], None),
    "LA": (lambda: with_alpha().convert("LA"), ["PNG"], GREY),
    "P": (lambda: picture().quantize(16), ["PNG", "GIF", "BMP", "TIFF"], None),
    "P with transparency": (see_through_palette, ["PNG"], np.asarray(picture().quantize(16).convert("RGB"))),
    "RGB": (picture, ["PNG", "BMP", "TIFF", "PPM", "JPEG2000"], PIXELS),
    "RGBA": (with_alpha, ["PNG", "BMP", "JPEG2000"], PIXELS),
    "CMYK": (lambda: picture().convert("CMYK"), ["JPEG", "TIFF"], None),
    "YCbCr": (lambda: picture().convert("YCbCr"), ["JPEG"], None),
    "I;16": (lambda: Image.fromarray(DEEP), ["PNG", "TIFF", "PPM"], np.repeat(noise()[:, :, None], 3, axis=2)),
    "I": (lambda: Image.fromarray(DEEP).convert("I"), [], np.repeat(noise()[:, :, None], 3, axis=2)),
    "HSV": (lambda: picture().convert("HSV"), [], None),
    "RGBa": (lambda: with_alpha().convert("RGBa"), [], None),
}
"""PIL's mode -> an image, the files it goes through, and what both must give, where that is plain."""


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_same_rgb_from_pil_and_file(mode: str) -> None:
    make, kinds, expected = MODES[mode]
    image = make()
    before = (image.mode, image.size, image.tobytes(), dict(image.info))
    rgb = read_image(image)
    assert (image.mode, image.size, image.tobytes(), image.info) == before
    if expected is not None:
        np.testing.assert_array_equal(rgb, expected)
    elif mode != "RGBa":  # where it is transparent, its colours are lost
        assert_alike(rgb, np.asarray(image.convert("RGB")))
    for kind in kinds:
        data = encoded(image, kind)
        assert_alike(read_image(data), read_image(Image.open(io.BytesIO(data))), tolerance=1)
        if kind != "JPEG":
            assert_alike(read_image(data), rgb)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("F", (4, 4)), "floating-point pixels have no defined range"),
        (Image.fromarray(np.full((4, 4), -1, np.int32)), "do not fit 16 bits"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "do not fit 16 bits"),
        (Image.new("RGB", (0, 4)), "no pixels"),
        (Image.open(io.BytesIO(JPEG[:900])), r"PIL cannot read it .*truncated"),
    ],
    ids=["F", "negative", "beyond 16 bits", "empty", "truncated"],
)
def test_a_pil_image_without_defined_colours_is_one_clear_error(image: Image.Image, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(image)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    animation = Image.open(io.BytesIO(data))
    assert getattr(animation, "n_frames", 1) == 3
    for source in (data, animation):
        assert_alike(read_image(source), np.asarray(frames[0]))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(name: str) -> None:
    kind, options = FORMATS[name]
    data = encoded(picture(), kind, **options)
    assert_alike(read_image(data), read_image(Image.open(io.BytesIO(data))))


def test_arrays_are_taken_as_they_are() -> None:
    grey = np.ascontiguousarray(PIXELS[:, :, 0])
    assert np.shares_memory(read_image(PIXELS), PIXELS)
    np.testing.assert_array_equal(read_image(PIXELS), PIXELS)
    for source in (grey, grey[:, :, None], np.asfortranarray(grey), np.ma.masked_array(grey)):
        np.testing.assert_array_equal(read_image(source), np.repeat(grey[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(read_image(np.asarray(with_alpha())), PIXELS)
    mirrored = read_image(PIXELS[::-2, ::-1])
    np.testing.assert_array_equal(mirrored, PIXELS[::-2, ::-1])
    assert mirrored.flags.c_contiguous


@pytest.mark.parametrize("form", ["RGB", "RGBA", "L"])
def test_an_array_is_not_changed(form: str) -> None:
    array = np.asarray(with_alpha().convert(form)).copy()
    array.flags.writeable = False
    before = array.copy()
    read_image(array)
    np.testing.assert_array_equal(array, before)
    assert not array.flags.writeable


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PIXELS.astype(np.float32) / 255, r"<array 30 x 45 x 3 float32>: an image array must be uint8, 0 to 255"),
        (PIXELS.astype(np.int64), "must be uint8"),
        (PIXELS > 3, "must be uint8"),
        (np.array(["a.jpg"]), "must be uint8"),
        (PIXELS.transpose(2, 0, 1), r"<array 3 x 30 x 45 uint8>: .*\(H, W, 3\) .*channels last"),
        (np.zeros((4, 4, 5), np.uint8), "channels last"),
        (np.zeros((4, 4, 2), np.uint8), "channels last"),
        (np.zeros((1, 4, 4, 3), np.uint8), "channels last"),
        (np.zeros(7, np.uint8), "channels last"),
        (np.array(7, np.uint8), "channels last"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((0, 0), np.uint8), "no pixels"),
    ],
    ids=describe,
)
def test_an_array_of_another_kind_is_one_clear_error(array: NDArray[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        read_image(array)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [None, 3, object(), [PIXELS], {"a": 1}])
def test_what_is_no_image_is_an_input_error(source: Any) -> None:
    with pytest.raises(InputError, match="is not an image; pass a path, a URL, bytes"):
        read_image(source)

"""Formats and modes that are read seldom: the size is the decoder's, and white is white."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ghostzoo.errors import ImageError
from ghostzoo.images.decode import ImageLimits, read_image
from ghostzoo.images.header import read_header
from tests.fixtures.formats import bigtiff, os2_bmp, pam, pnm, sun_raster
from tests.fixtures.pictures import encoded, picture

PIXELS = np.asarray(picture())
GREY = np.asarray(picture().convert("L"))


def as_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)


FILES: dict[str, Callable[[], bytes]] = {
    "os2-bmp": lambda: os2_bmp(PIXELS),
    "bigtiff": lambda: bigtiff(PIXELS, "<"),
    "bigtiff-big-endian": lambda: bigtiff(PIXELS, ">"),
    "sun-raster": lambda: sun_raster(PIXELS),
    "code-stream": lambda: encoded(picture(), "JPEG2000", no_jp2=True),
    "pam": lambda: pam(PIXELS, 255, "RGB"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_seldom_format_is_read(name: str) -> None:
    data = FILES[name]()
    header = read_header(data)
    assert (header.width, header.height) == (45, 30)
    np.testing.assert_array_equal(read_image(data), PIXELS)
    if name not in ("pam", "bigtiff-big-endian"):  # PIL does not read these
        np.testing.assert_array_equal(read_image(Image.open(io.BytesIO(data))), PIXELS)


@pytest.mark.parametrize("name", FILES)
def test_a_seldom_format_has_its_size_checked_first(name: str) -> None:
    with pytest.raises(ImageError, match="45 x 30 pixels are more than"):
        read_image(FILES[name](), ImageLimits(max_pixels=45 * 30 - 1))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_truncated_file_of_a_seldom_format_is_an_error(name: str, share: float) -> None:
    data = FILES[name]()
    with pytest.raises(ImageError, match=r"truncated|damaged|not an image in a supported format"):
        read_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("depth", [1, 4, 8])
def test_a_palette_of_os2_is_read(depth: int) -> None:
    palette = bytes(range(1, 1 + 3 * 2**depth)) if depth < 8 else bytes(range(256)) * 3
    rows = bytes(range(100, 100 + 2 * ((5 * depth + 31) // 32 * 4)))
    start = 26 + len(palette)
    header = struct.pack("<2sLHHLLHHHH", b"BM", start + len(rows), 0, 0, start, 12, 5, 2, 1, depth)
    data = header + palette + rows
    np.testing.assert_array_equal(read_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("white", [1, 2, 15, 100, 254, 255, 256, 1000, 4095, 65534, 65535])
def test_white_is_white_whatever_the_largest_value_of_a_pnm(white: int, plain: bool) -> None:
    levels = np.linspace(0, white, 45 * 30 * 3).round().astype(int).reshape(30, 45, 3)
    for samples in (levels, levels[:, :, 0]):
        rgb = read_image(pnm(samples, white, plain=plain))
        expected = samples / white * 255
        expected = expected if samples.ndim == 3 else np.repeat(expected[:, :, None], 3, axis=2)
        assert np.abs(rgb - expected).max() <= 1
        assert rgb.min() == 0
        assert rgb.max() == int(np.ceil(expected.max()))


def test_a_value_beyond_the_largest_is_white() -> None:
    assert read_image(b"P5 2 1 100\n" + bytes((200, 50))).tolist() == [[[255] * 3, [128] * 3]]


def test_a_pnm_has_the_pixels_of_its_pil_image() -> None:
    for white in (15, 100, 4095, 65535):
        for samples in (PIXELS.astype(int) * white // 255, GREY.astype(int) * white // 255):
            data = pnm(samples, white)
            difference = read_image(data).astype(int) - read_image(Image.open(io.BytesIO(data)))
            assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("kind", "white"), [("RGB", 255), ("RGB", 100), ("RGB", 65535), ("RGB", 1000), ("", 255), ("RGB_ALPHA", 255)]
)
def test_a_pam_of_colour_is_read(kind: str, white: int) -> None:
    samples = PIXELS.astype(int) * white // 255
    if kind == "RGB_ALPHA":
        samples = np.concatenate([samples, samples[:, :, :1]], axis=2)
    assert np.abs(read_image(pam(samples, white, kind)).astype(int) - PIXELS).max() <= 255 // white + 1


@pytest.mark.parametrize("kind", ["GRAYSCALE", "GRAYSCALE_ALPHA", "BLACKANDWHITE"])
def test_a_pam_of_grey_is_read(kind: str) -> None:
    white = 1 if kind == "BLACKANDWHITE" else 255
    samples = GREY[:, :, None] // 128 if white == 1 else GREY[:, :, None]
    expected = as_rgb(samples[:, :, 0] * np.uint8(255 // white))
    if kind == "GRAYSCALE_ALPHA":
        samples = np.concatenate([samples, samples // 2], axis=2)
    np.testing.assert_array_equal(read_image(pam(samples, white, kind)), expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"P7\nWIDTH 2\n", "header is damaged"),
        (b"P7\nWIDTH 2\nWIDTH 2\nHEIGHT 2\nDEPTH 1\nMAXVAL 255\nENDHDR\n1234", "header is damaged"),
        (b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 5\nMAXVAL 255\nENDHDR\n" + bytes(20), "neither grey nor RGB"),
        (b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 1\nMAXVAL 255\nTUPLTYPE DEPTH\nENDHDR\n1234", "neither grey nor RGB"),
        (b"P7\nWIDTH 9999\nHEIGHT 9999\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + bytes(20), "truncated"),
        (b"P7\nWIDTH -2\nHEIGHT -2\nDEPTH 1\nMAXVAL 255\nENDHDR\n1234", "header is damaged"),
        (b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 1\nMAXVAL 0\nENDHDR\n1234", "header is damaged"),
        (b"P7\n" + b"#\n" * 1000 + b"WIDTH 2\nHEIGHT 2\nDEPTH 1\nMAXVAL 255\nENDHDR\n1234", "header is damaged"),
        (b"P5 2 2 0\n1234", "header is damaged"),
        (b"P5 2 2 65536\n12341234", "header is damaged"),
        (b"PF\n1 1\n-1.0\n" + bytes(12), "floating-point pixels have no defined range; convert it to PNG"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n1234", "floating-point pixels have no defined range"),
    ],
)
def test_what_has_no_brightness_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(data)


MODES: dict[str, tuple[Callable[[], Image.Image], NDArray[np.uint8]]] = {
    "I of 8 bits": (lambda: picture().convert("L").convert("I"), as_rgb(GREY)),
    "I of 16 bits": (lambda: Image.fromarray(GREY.astype(np.int32) * 257), as_rgb(GREY)),
    "I;16": (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), as_rgb(GREY)),
    "I;16, black": (lambda: Image.new("I;16", (45, 30)), as_rgb(np.zeros_like(GREY))),
    "LA": (lambda: Image.merge("LA", [picture().convert("L")] * 2), as_rgb(GREY)),
    "La": (lambda: picture().convert("RGBA").convert("LA").convert("La"), as_rgb(GREY)),
    "PA": (lambda: picture().quantize(16).convert("PA"), np.asarray(picture().quantize(16).convert("RGB"))),
    "RGBa": (lambda: picture().convert("RGBA").convert("RGBa"), PIXELS),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_of_pil_keeps_its_brightness(mode: str) -> None:
    make, expected = MODES[mode]
    image = make()
    assert image.mode == mode.split()[0].rstrip(",")
    np.testing.assert_array_equal(read_image(image), expected)


def test_16_bits_that_would_be_black_are_refused() -> None:
    with pytest.raises(ImageError, match="its grey values reach 250 of 65535, which is black; convert it to L first"):
        read_image(Image.fromarray(np.full((4, 4), 250, np.uint16)))

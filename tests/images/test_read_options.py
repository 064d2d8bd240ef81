"""Transparency over a colour, truncated JPEGs, reduced decoding: what ``ReadOptions`` change, and what they do not."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ghostzoo.errors import ImageError, OptionError
from ghostzoo.images.decode import ImageLimits, ReadOptions, read_image, read_picture
from ghostzoo.images.options import Colour, parse_colour
from tests.fixtures.formats import pam
from tests.fixtures.hostile import png_chunk
from tests.fixtures.pictures import FORMATS, encoded, picture

PIXELS = np.asarray(picture())
BLUE: Colour = (10, 20, 200)


def with_alpha(mode: str = "RGBA") -> Image.Image:
    """Opaque on the left, transparent on the right, everything between."""
    image = picture().convert(mode)
    ramp = np.tile(np.linspace(255, 0, 45).round().astype(np.uint8), (30, 1))
    image.putalpha(Image.fromarray(ramp))
    return image


def over(image: Image.Image, colour: Colour) -> NDArray[Any]:
    """By PIL's own composition."""
    back = Image.new("RGBA", image.size, colour)
    return np.asarray(Image.alpha_composite(back, image.convert("RGBA")).convert("RGB"))


def transparent_gif() -> bytes:
    image = picture().quantize(16)
    return encoded(image, "GIF", transparency=image.getpixel((0, 0)))


def bmp_with_alpha() -> bytes:
    """Version 4 of the header, with a mask for alpha."""
    blue_first = np.asarray(with_alpha())[::-1, :, [2, 1, 0, 3]].tobytes()
    info = struct.pack("<LllHHLLllLL", 108, 45, 30, 1, 32, 3, len(blue_first), 0, 0, 0, 0)
    info += struct.pack("<4L", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    return struct.pack("<2sLHHL", b"BM", 14 + len(info) + len(blue_first), 0, 0, 14 + len(info)) + info + blue_first


def deep_png() -> bytes:
    samples = (np.asarray(with_alpha()).astype(">u2") * 257).reshape(30, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = png_chunk(b"IHDR", struct.pack(">LLBBBBB", 45, 30, 16, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


TRANSPARENT: dict[str, Callable[[], bytes]] = {
    "png": lambda: encoded(with_alpha(), "PNG"),
    "png-16-bit": deep_png,
    "png-grey": lambda: encoded(with_alpha("L"), "PNG"),
    "png-palette": lambda: encoded(picture().quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
    "png-one-colour": lambda: encoded(picture(), "PNG", transparency=picture().getpixel((3, 4))),
    "png-one-grey": lambda: encoded(
        picture().convert("L"), "PNG", transparency=picture().convert("L").getpixel((3, 4))
    ),
    "webp": lambda: encoded(with_alpha(), "WEBP", lossless=True, exact=True),
    "gif": transparent_gif,
    "bmp": bmp_with_alpha,
    "tiff": lambda: encoded(with_alpha(), "TIFF"),
    "jpeg2000": lambda: encoded(with_alpha(), "JPEG2000"),
}


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("background", [BLUE, (255, 255, 255), (0, 0, 0)])
def test_a_background_shows_behind_transparency(name: str, background: Colour) -> None:
    data = TRANSPARENT[name]()
    expected = over(Image.open(io.BytesIO(data)), background).astype(int)
    for source in (data, io.BytesIO(data), Image.open(io.BytesIO(data))):
        rgb = read_image(source, options=ReadOptions(background=background))
        assert np.abs(rgb - expected).max() <= 1
        assert rgb.flags.c_contiguous
    if name != "tiff" or any(background):  # which the decoder lays over black by itself
        assert (expected != read_image(data)).any()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La", "PA"])
def test_a_background_shows_behind_a_pil_image_and_an_array(mode: str) -> None:
    image = with_alpha("L" if mode in ("LA", "La") else "RGB")
    image = picture().quantize(16).convert("PA") if mode == "PA" else image.convert(mode)
    straight = image.convert("LA") if mode == "La" else image
    expected = over(straight.convert("RGBA"), BLUE).astype(int)
    assert np.abs(read_image(image, options=ReadOptions(background=BLUE)) - expected).max() <= 1
    array = np.asarray(straight.convert("RGBA"))
    assert np.abs(read_image(array, options=ReadOptions(background=BLUE)) - expected).max() <= 1


@pytest.mark.parametrize("name", FORMATS)
def test_options_change_nothing_of_an_opaque_whole_small_image(name: str) -> None:
    kind, options = FORMATS[name]
    data = encoded(picture(), kind, **options)
    read = read_picture(data, ImageLimits(), ReadOptions(BLUE, lenient=True, draft_side=64))
    np.testing.assert_array_equal(read.rgb, read_image(data))
    assert not read.damaged


def test_a_background_and_an_orientation_go_together() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(with_alpha(), "PNG", exif=exif)
    expected = np.rot90(over(with_alpha(), BLUE), -1).astype(int)
    assert np.abs(read_image(data, options=ReadOptions(background=BLUE)) - expected).max() <= 1


@pytest.mark.parametrize(
    "data",
    [encoded(with_alpha("L"), "TIFF"), pam(np.asarray(with_alpha()), 255, "RGB_ALPHA")],
    ids=["grey TIFF", "PAM"],
)
def test_a_background_behind_undecodable_alpha_is_an_error(data: bytes) -> None:
    assert read_image(data).shape == (30, 45, 3)
    with pytest.raises(ImageError, match="the transparency of its kind cannot be decoded; convert it to PNG"):
        read_image(data, options=ReadOptions(background=BLUE))


@pytest.mark.parametrize(
    ("value", "colour"),
    [
        ("white", (255, 255, 255)),
        ("Black", (0, 0, 0)),
        ("grey", (128, 128, 128)),
        ("#0a14C8", BLUE),
        ("#fa0", (255, 170, 0)),
        ([10, 20, 200], BLUE),
        (tuple(np.array(BLUE, np.uint8)), BLUE),
    ],
)
def test_colours_are_parsed(value: Any, colour: Colour) -> None:
    assert parse_colour(value) == colour


@pytest.mark.parametrize(
    "value", ["", "#", "#12345", "whitish", "10,20,30", (1, 2), (1, 2, 256), (1, 2, -1), 7, (1, 2, 0.5)]
)
def test_what_is_no_colour_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match=r"background must be white, black, grey, '#rrggbb', or .* not "):
        parse_colour(value)


PHOTO = picture(400, 300)
LENIENT = ReadOptions(lenient=True)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
def test_what_there_is_of_a_truncated_jpeg_is_read_leniently(options: dict[str, Any], share: float) -> None:
    whole = encoded(PHOTO, "JPEG", quality=95, **options)
    data = whole[: int(len(whole) * share)]
    with pytest.raises(ImageError, match="it is truncated or damaged"):
        read_image(data)
    for source in (data, io.BytesIO(data)):
        read = read_picture(source, ImageLimits(), LENIENT)
        assert read.damaged
        assert read.rgb.shape == (300, 400, 3)
    difference = np.abs(read.rgb.astype(int) - read_image(whole))
    if "progressive" not in options:
        assert difference[: int(200 * share)].max() <= 4
    assert not read_picture(whole, ImageLimits(), LENIENT).damaged


def test_nothing_of_another_image_shows_in_a_truncated_jpeg() -> None:
    whole = encoded(Image.new("RGB", (1500, 1500), (90, 90, 90)), "JPEG", subsampling=0)
    for _ in range(3):
        noise = np.random.default_rng(1).integers(0, 256, (1500, 1500, 3), np.uint8)
        read_image(encoded(Image.fromarray(noise), "JPEG"))
        rgb = read_image(whole[: len(whole) // 2], options=LENIENT)
        assert (rgb == rgb[:, :, :1]).all()  # greys, and no colour of the noise


def test_a_jpeg_that_breaks_off_in_a_segment_is_read_up_to_it() -> None:
    whole = encoded(PHOTO, "JPEG", progressive=True)
    scans = [start for start in range(len(whole)) if whole.startswith(b"\xff\xda", start)]
    for cut in (1, 2, 3, 4, 6):
        read = read_picture(whole[: scans[-1] + cut], ImageLimits(), LENIENT)
        assert read.damaged
        assert read.rgb.shape == (300, 400, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_nothing_is_made_up_where_no_picture_is_left(kind: str) -> None:
    whole = encoded(PHOTO, kind)
    end = whole.index(b"\xff\xda") if kind == "JPEG" else len(whole) // 2
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        read_image(whole[:end], options=LENIENT)


def test_a_jpeg_that_the_decoder_gives_up_on_is_read_up_to_there() -> None:
    whole = encoded(PHOTO, "JPEG", progressive=True, quality=95)
    scans = [start for start in range(len(whole)) if whole.startswith(b"\xff\xda", start)]
    assert len(scans) > 5
    sharpness = []
    for scan in scans[1:]:
        data = whole[: scan + 5] + b"\x77" * 5 + whole[scan + 10 :]  # of components that there are not
        with pytest.raises(ImageError, match="it is damaged, or of a kind"):
            read_image(data)
        read = read_picture(data, ImageLimits(), LENIENT)
        assert read.damaged
        sharpness.append(np.abs(read.rgb.astype(int) - read_image(whole)).mean())
    assert sharpness == sorted(sharpness, reverse=True), "each scan that is whole makes it sharper"
    assert sharpness[-1] < sharpness[0] / 2


def test_limits_hold_for_damaged_images() -> None:
    data = encoded(PHOTO, "JPEG", progressive=True)[:-2]
    with pytest.raises(ImageError, match="max_pixels"):
        read_picture(data, ImageLimits(max_pixels=300 * 400 - 1), LENIENT)
    with pytest.raises(ImageError, match="max_scans"):
        read_picture(data, ImageLimits(max_pixels=300 * 400, max_scans=2), LENIENT)


def test_only_what_can_be_read_leniently_is_said_to_be() -> None:
    limits = ImageLimits(option_names={"lenient": "--lenient"})
    jpeg, png = (encoded(PHOTO, kind) for kind in ("JPEG", "PNG"))
    advised = "get the file again, or read it with --lenient"
    with pytest.raises(ImageError, match=advised):
        read_picture(jpeg[:-300], limits, ReadOptions())
    for data, options in (
        (png[:-300], ReadOptions()),
        (jpeg[:2] + b"\xff\xe0\0\2" * 10_001 + jpeg[2:], ReadOptions()),  # more segments than a JPEG may have
        (jpeg[: jpeg.index(b"\xff\xda")], LENIENT),
    ):
        with pytest.raises(ImageError) as caught:
            read_picture(data, limits, options)
        assert "--lenient" not in str(caught.value)


def test_a_truncated_pil_image_says_how_it_can_be_read() -> None:
    data = encoded(PHOTO, "JPEG")
    with pytest.raises(ImageError, match=r"truncated.*; pass the file itself to have it read leniently"):
        read_image(Image.open(io.BytesIO(data[: len(data) // 2])), options=LENIENT)


@pytest.mark.parametrize(
    ("side", "size"),
    [(76, (300, 400)), (75, (75, 100)), (151, (300, 400)), (150, (150, 200)), (37, (38, 50)), (1, (38, 50))],
)
def test_a_draft_has_at_least_the_side_that_is_asked_for(side: int, size: tuple[int, int]) -> None:
    side_or_more = side if side not in (76,) else 151
    for options in ({}, {"progressive": True}):
        data = encoded(PHOTO, "JPEG", quality=95, **options)
        rgb = read_image(data, options=ReadOptions(draft_side=side_or_more))
        assert rgb.shape[:2] == size
        small = cv2.resize(np.asarray(PHOTO), size[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(rgb.astype(int) - small).mean() < 3


def test_a_draft_is_turned_and_large_ones_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for width, height in ((400, 300), (4001, 3003)):
        data = encoded(picture(width, height), "JPEG", exif=exif)
        assert read_image(data, options=ReadOptions(draft_side=height // 2)).shape == (
            -(-width // 2),
            -(-height // 2),
            3,
        )


def test_a_draft_of_another_format_is_the_image_itself() -> None:
    for kind in ("PNG", "WEBP", "BMP"):
        data = encoded(PHOTO, kind)
        np.testing.assert_array_equal(read_image(data, options=ReadOptions(draft_side=10)), read_image(data))

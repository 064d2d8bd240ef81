"""PNG files are rebuilt before they are decoded; the picture stays the same, bit for bit."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ghostzoo.errors import ImageError
from ghostzoo.images.container import HeaderError
from ghostzoo.images.decode import read_image
from ghostzoo.images.header import read_header
from tests.fixtures.fuzz import png_chunk
from tests.fixtures.hostile_images import png_header, png_that_inflates, png_with
from tests.fixtures.pictures import encoded, picture

WIDTH, HEIGHT = 13, 9
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
KINDS = [(colour, depth) for colour, depths in DEPTHS.items() for depth in depths]
"""Colour types and bit depths: PNG specification, 11.2.1."""
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
TRANSPARENCY = {0: b"\0\1", 2: b"\0\1\0\2\0\3", 3: b"\0\x80"}
EXIF = b"MM\0*" + struct.pack(">LHHHLHHL", 8, 1, 0x0112, 3, 1, 6, 0, 0)
BESIDES = {
    "gAMA": struct.pack(">L", 100_000),
    "cHRM": struct.pack(">8L", *range(30_000, 38_000, 1000)),
    "sRGB": b"\0",
    "iCCP": b"profile\0\0" + zlib.compress(bytes(400)),
    "pHYs": struct.pack(">LLB", 2835, 2835, 1),
    "tIME": struct.pack(">HBBBBB", 2024, 5, 6, 7, 8, 9),
    "tEXt": b"Comment\0text",
    "zTXt": b"Comment\0\0" + zlib.compress(b"text" * 99),
    "iTXt": b"Comment\0\0\0\0\0text",
    "vpAg": bytes(9),
}
"""Chunks that say nothing of the decoded pixels."""


def plain(data: bytes) -> NDArray[Any]:
    decoded: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(decoded)


def passes(interlaced: bool) -> list[tuple[int, int]]:
    if not interlaced:
        return [(WIDTH, HEIGHT)]
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return [(len(range(x, WIDTH, dx)), len(range(y, HEIGHT, dy))) for x, y, dx, dy in steps]


def png(colour: int, depth: int, interlaced: bool = False, before: bytes = b"", after: bytes = b"") -> bytes:
    """A picture of noise."""
    noise = np.random.default_rng(colour * 16 + depth)
    rows = bytearray()
    for width, height in passes(interlaced):
        for _ in range(height if width else 0):
            rows += b"\0" + noise.bytes(-(-width * depth * CHANNELS[colour] // 8))
    palette = png_chunk(b"PLTE", noise.bytes(3 * 2**depth)) if colour == 3 else b""
    pixels = zlib.compress(bytes(rows))
    halves = png_chunk(b"IDAT", pixels[:40]) + png_chunk(b"IDAT", pixels[40:])
    header = png_header(WIDTH, HEIGHT, depth, colour, interlaced)
    return header + palette + before + halves + after + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_every_kind_of_pixels_stays_as_it_is(colour: int, depth: int, interlaced: bool) -> None:
    transparency = png_chunk(b"tRNS", TRANSPARENCY[colour]) if colour in TRANSPARENCY else b""
    exif = png_chunk(b"eXIf", EXIF)
    for before in (b"", transparency, transparency + exif, exif):
        for after in (b"", exif):
            data = png(colour, depth, interlaced, before, after)
            assert (read_header(data).data is data) == (exif not in before + after)  # the decoder gets none
            turned = bool(before.endswith(exif) or after)
            assert plain(data).shape == ((WIDTH, HEIGHT, 3) if turned else (HEIGHT, WIDTH, 3))
            np.testing.assert_array_equal(read_image(data), plain(data))


@pytest.mark.parametrize("name", BESIDES)
def test_other_chunks_are_not_decoded(name: str) -> None:
    for colour, depth in ((0, 16), (2, 8), (3, 4), (6, 8)):
        besides = png_chunk(name.encode(), BESIDES[name])
        data = png(
            colour, depth, before=png_chunk(b"eXIf", EXIF) + besides, after=besides if name[1:] == "EXt" else b""
        )
        assert name.encode() not in read_header(data).data
        np.testing.assert_array_equal(read_image(data), plain(data))


def test_a_checksum_of_a_text_may_be_wrong() -> None:
    damaged = png_chunk(b"tEXt", b"Comment\0text")[:-1] + b"?"
    np.testing.assert_array_equal(read_image(png(2, 8, before=damaged)), plain(png(2, 8)))


def test_unknown_critical_chunks_are_left_to_the_decoder() -> None:
    data = png(2, 8, before=png_chunk(b"NEWx", b""))
    assert read_header(data).data is data
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(data)


def frames(mode: str) -> list[Image.Image]:
    return [picture(20, 10).rotate(angle).convert(mode) for angle in (0, 90, 180)]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("default_image", [False, True])
def test_an_animation_gives_its_default_image_as_in_pil(mode: str, default_image: bool) -> None:
    first, *others = frames(mode)
    data = encoded(first, "PNG", save_all=True, append_images=others, default_image=default_image)
    assert b"acTL" in data
    kept = read_header(data).data
    assert not any(kind in kept for kind in (b"acTL", b"fcTL", b"fdAT"))
    with Image.open(io.BytesIO(data)) as pil:
        np.testing.assert_array_equal(read_image(data), np.asarray(pil.convert("RGBA"))[:, :, :3])
    np.testing.assert_array_equal(read_image(data), np.asarray(first.convert("RGBA"))[:, :, :3])
    if not default_image:
        np.testing.assert_array_equal(read_image(data), plain(data))


def test_a_second_frame_may_be_damaged_the_end_must_be_there() -> None:
    first, *others = frames("RGB")
    data = encoded(first, "PNG", save_all=True, append_images=others)
    start = data.rindex(b"fdAT") + 12
    np.testing.assert_array_equal(read_image(data[:start] + bytes(9) + data[start + 9 :]), np.asarray(first))
    with pytest.raises(ImageError, match="truncated"):
        read_image(data[: start + 20])


@pytest.mark.parametrize(
    ("colour", "depth", "interlaced", "side"),
    [(2, 8, False, 1300), *((6, 16, True, side) for side in (800, 801, 803, 805))],  # each ends some pass by one pixel
)
def test_large_pixels_may_inflate_to_the_picture_and_a_mebibyte(
    colour: int, depth: int, interlaced: bool, side: int
) -> None:
    bits = depth * CHANNELS[colour]
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    sizes = [
        (-(-(side - x) // dx), -(-(side - y) // dy)) for x, y, dx, dy in (steps if interlaced else ((0, 0, 1, 1),))
    ]
    noise = np.random.default_rng(0)
    rows = b"".join(b"\0" + noise.bytes(-(-width * bits // 8)) for width, height in sizes for _ in range(height))
    for extra, fine in ((0, True), (2**20, True), (2**20 + 1, False)):
        pixels = png_chunk(b"IDAT", zlib.compress(rows + bytes(extra), 1))
        assert len(pixels) > 4 * 2**20
        data = png_header(side, side, depth, colour, interlaced) + pixels + png_chunk(b"IEND", b"")
        if fine:
            np.testing.assert_array_equal(read_image(data), plain(data))
        else:
            with pytest.raises(ImageError, match="far more than its picture"):
                read_image(data)


def test_finding_out_that_a_file_inflates_takes_no_memory() -> None:
    header = read_header(png_that_inflates())
    tracemalloc.start()
    try:
        with pytest.raises(HeaderError, match="far more than its picture"):
            header.check_data()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_file_of_too_many_chunks_is_refused() -> None:
    with pytest.raises(HeaderError, match="more than 100000 chunks"):
        read_header(png_with(png_chunk(b"tEXt", b"") * 100_000))
    assert read_header(png_with(png_chunk(b"tEXt", b"") * 99_000)).width == 100

"""One orientation, wherever a format keeps it, and the same for a path, bytes, a file and a PIL image."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ghostzoo.images.decode import read_image
from ghostzoo.images.exif import read_orientation
from tests.fixtures.hostile import png_chunk
from tests.fixtures.pictures import encoded, picture

PREFIX = b"Exif\0\0"
SHORT, LONG = 3, 4
TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def exif(orientation: int, kind: int = SHORT, order: str = ">") -> bytes:
    """A TIFF structure of one entry."""
    value = struct.pack(f"{order}Hxx" if kind == SHORT else f"{order}L", orientation)
    entry = struct.pack(f"{order}HHL", 0x0112, kind, 1) + value
    return {">": b"MM", "<": b"II"}[order] + struct.pack(f"{order}HLH", 42, 8, 1) + entry + bytes(4)


def jpeg(block: bytes, segment: bytes = PREFIX) -> bytes:
    data = encoded(picture(), "JPEG", quality=95)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment + block) + 2) + segment + block + data[2:]


def png(block: bytes) -> bytes:
    return with_chunk(b"eXIf", block)


def with_chunk(kind: bytes, content: bytes) -> bytes:
    data = encoded(picture(), "PNG")
    return data[:33] + png_chunk(kind, content) + data[33:]


def raw_profile(block: bytes) -> bytes:
    """EXIF data as ImageMagick keeps them."""
    content = (PREFIX + block).hex()
    lines = [content[start : start + 72] for start in range(0, len(content), 72)]
    return f"\nexif\n{len(content) // 2:8}\n".encode() + "\n".join(lines).encode() + b"\n"


def webp(block: bytes, animated: bool = False) -> bytes:
    options = {"save_all": True, "append_images": [picture().rotate(180)]} if animated else {}
    data = encoded(picture(), "WEBP", lossless=True, exif=b"Exif\0\0" + exif(1), **options)
    before = data[12 : data.index(b"EXIF")]
    body = b"WEBP" + before + b"EXIF" + struct.pack("<L", len(block)) + block + bytes(len(block) % 2)
    return b"RIFF" + struct.pack("<L", len(body)) + body


FILES: dict[str, Callable[[bytes], bytes]] = {
    "jpeg": jpeg,
    "png": png,
    "png-prefixed": lambda block: png(PREFIX + block),
    "png-text": lambda block: with_chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(block)),
    "png-compressed-text": lambda block: with_chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(block))
    ),
    "webp": webp,
    "webp-prefixed": lambda block: webp(PREFIX + block),
    "webp-animated": lambda block: webp(block, animated=True),
    "webp-animated-prefixed": lambda block: webp(PREFIX + block, animated=True),
}


def check(data: bytes, expected: NDArray[Any], path: Path) -> None:
    path.write_bytes(data)
    for source in (path, data, io.BytesIO(data), Image.open(io.BytesIO(data))):
        np.testing.assert_array_equal(read_image(source), expected, err_msg=str(type(source)))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("orientation", TURNS)
def test_every_container_of_exif_turns_the_image(name: str, orientation: int, tmp_path: Path) -> None:
    upright = read_image(FILES[name](exif(1)))
    for order in "<>":
        check(FILES[name](exif(orientation, order=order)), TURNS[orientation](upright), tmp_path / "image")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", [SHORT, LONG])
def test_any_type_of_integer_is_an_orientation(name: str, kind: int, tmp_path: Path) -> None:
    upright = read_image(FILES[name](exif(1)))
    for order in "<>":
        check(FILES[name](exif(6, kind, order)), TURNS[6](upright), tmp_path / "image")


@pytest.mark.parametrize("kind", [SHORT, LONG])
def test_the_orientation_of_a_tiff_is_of_any_type_too(kind: int, tmp_path: Path) -> None:
    plain = encoded(picture(), "TIFF")
    turned = encoded(picture(), "TIFF", tiffinfo={0x0112: 6})
    start = turned.index(struct.pack("<HHL", 0x0112, SHORT, 1))
    data = turned[:start] + struct.pack("<HHLL", 0x0112, kind, 1, 6) + turned[start + 12 :]
    check(data, TURNS[6](read_image(plain)), tmp_path / "image")


def test_of_two_blocks_in_a_jpeg_the_first_counts(tmp_path: Path) -> None:
    data = jpeg(exif(6))
    second = b"\xff\xe1" + struct.pack(">H", len(PREFIX + exif(3)) + 2) + PREFIX + exif(3)
    start = 4 + int.from_bytes(data[4:6])
    check(data[:start] + second + data[start:], TURNS[6](read_image(jpeg(exif(1)))), tmp_path / "image")


@pytest.mark.parametrize("form", [b'tiff:Orientation="6"', b"<tiff:Orientation>6</tiff:Orientation>"])
def test_xmp_turns_nothing_in_a_file_or_a_pil_image(form: bytes, tmp_path: Path) -> None:
    data = jpeg(form, segment=b"http://ns.adobe.com/xap/1.0/\0")
    assert Image.open(io.BytesIO(data)).getexif().get(0x0112) == 6
    check(data, read_image(jpeg(exif(1))), tmp_path / "image")
    image = Image.open(io.BytesIO(data))
    image.getexif()[0x0112] = 3  # set by the caller
    np.testing.assert_array_equal(read_image(image), TURNS[3](read_image(jpeg(exif(1)))))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"XX\0*rubbish",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        exif(0),
        exif(9),
        exif(6, kind=2),
        exif(6)[:-7],
        struct.pack(">2sHLHHHLHHL", b"MM", 42, 8, 1, 0x0112, 3, 2, 6, 6, 0),
    ],
    ids=["none", "rubbish", "far", "many", "zero", "nine", "text", "short", "two"],
)
def test_damaged_exif_data_give_no_orientation(block: bytes) -> None:
    assert read_orientation(block) is None
    assert read_orientation(PREFIX + block) is None


def test_a_text_that_inflates_to_much_is_no_orientation() -> None:
    bomb = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n8\n" + b"00" * 2**22)
    np.testing.assert_array_equal(read_image(with_chunk(b"zTXt", bomb)), np.asarray(picture()))

"""Which structures a JPEG 2000 file may declare."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from ghostzoo.errors import ImageError
from ghostzoo.images.container import HeaderError
from ghostzoo.images.decode import read_image
from ghostzoo.images.header import read_header
from tests.fixtures.hostile_images import jpeg2000_of_parts
from tests.fixtures.pictures import encoded, picture


@pytest.mark.parametrize(
    "changes",
    [
        {"precinct": 0x22},
        {"precinct": 0x33},
        {"block": 0, "side": 2600},
        {"layers": 300},
        {"tile": 15},
        {"components": 5},
    ],
)
def test_what_would_take_the_decoder_gigabytes_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ImageError, match="more or smaller parts than its picture needs"):
        read_image(jpeg2000_of_parts(**{"precinct": 0x88, **changes}))


def test_an_unchanged_file_is_read() -> None:
    assert read_image(jpeg2000_of_parts(precinct=0x88)).shape == (2000, 2000, 3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"irreversible": True, "quality_layers": [40, 20, 5]},
        {"tile_size": (64, 64)},
        {"tile_size": (64, 64), "precinct_size": (64, 64), "num_resolutions": 3, "progression": "RPCL"},
        {"codeblock_size": (4, 4)},
        {"plt": True, "comment": "text"},
    ],
)
def test_what_writers_make_is_read(options: dict[str, Any]) -> None:
    image = picture(300, 200)
    data = encoded(image, "JPEG2000", **options)
    header = read_header(data)
    assert (header.width, header.height) == (300, 200)
    difference = np.abs(read_image(data).astype(int) - np.asarray(image)).max()
    assert difference <= (60 if options.get("irreversible") else 0)


@pytest.mark.parametrize("length", [0, 2**32 - 1])
def test_the_last_tile_part_may_leave_its_length_open(length: int) -> None:
    """Zero stands for the rest of the file (A.4.2); one that leads out of the file ends with it, too."""
    data = bytearray(encoded(picture(300, 200), "JPEG2000"))
    struct.pack_into(">L", data, data.index(b"\xff\x90") + 6, length)
    header = read_header(bytes(data))
    assert (header.width, header.height) == (300, 200)


def test_a_file_of_comments_is_refused() -> None:
    data = encoded(picture(), "JPEG2000")
    place = data.index(b"\xff\x52")
    comment = b"\xff\x64\0\4\0\1"
    assert read_header(data[:place] + comment * 90_000 + data[place:]).width == 45
    with pytest.raises(HeaderError, match="more or smaller parts"):
        read_header(data[:place] + comment * 100_000 + data[place:])


@pytest.mark.parametrize("box", [b"\0\0\0\x08free", b"\0\0\0\x01free" + struct.pack(">Q", 16)])
def test_a_box_may_be_empty(box: bytes) -> None:
    """I.4, where a length of 1 stands for one of eight bytes after the type."""
    data = encoded(picture(), "JPEG2000")
    place = data.index(b"jp2c") - 4
    assert read_header(data[:place] + box + data[place:]).width == 45
    with pytest.raises(HeaderError, match="damaged"):
        read_header(data[:place] + box[:3] + b"\x07" + box[4:] + data[place:])


def test_the_segments_of_the_standard_are_read() -> None:
    """ISO/IEC 15444-1, table A.2, with those of part 2 that the decoder knows; the coding's own are not any segment."""
    data = encoded(picture(), "JPEG2000")
    place = data.index(b"\xff\x52")
    admitted = set()
    for code in range(256):
        with suppress(HeaderError, struct.error):
            read_header(data[:place] + bytes((0xFF, code, 0, 4, 0, 1)) + data[place:])
            admitted.add(code)
    standard = {0x50, 0x51, 0x55, 0x57, 0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63, 0x64}
    assert admitted - {0x90, 0x93, 0xD9} == standard | {0x74, 0x75, 0x77, 0x78}


@pytest.mark.parametrize("changes", [{"tile": 128, "precinct": 0x77}, {"precinct": 0x66}, {"block": 2}])
def test_a_hundred_megapixels_may_have_small_parts(changes: dict[str, int]) -> None:
    assert read_header(enlarged(10_000, 10_000, **changes)).width == 10_000


@pytest.mark.parametrize("turned", [False, True])
def test_the_small_parts_of_a_long_strip_are_counted(turned: bool) -> None:
    """B.6: precincts of 64 x 64 in all six resolutions together are 37,976, and then 42,523."""
    step = -1 if turned else 1
    header = read_header(enlarged(*(250_000, 400)[::step], precinct=0x66))
    assert (header.width, header.height) == (250_000, 400)[::step]
    with pytest.raises(HeaderError, match="more or smaller parts"):
        read_header(enlarged(*(280_000, 400)[::step], precinct=0x66))


def enlarged(width: int, height: int, **changes: int) -> bytes:
    """A file whose header alone is of so large a picture, in one tile where no other is asked for."""
    data = bytearray(jpeg2000_of_parts(**{"side": 500, "precinct": 0x88, **changes}))
    struct.pack_into(">LL", data, data.index(b"\xff\x51") + 6, width, height)
    if "tile" not in changes:
        struct.pack_into(">LL", data, data.index(b"\xff\x51") + 22, width, height)
    return bytes(data)

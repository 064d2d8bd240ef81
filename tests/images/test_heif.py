"""AVIF and HEIC: read as PIL reads them, and bounded by what their codecs decode, whatever their containers say."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, features

from ghostzoo.errors import ImageError
from ghostzoo.images.decode import ImageLimits, ReadOptions, read_image
from ghostzoo.images.header import read_header
from tests.fixtures.pictures import encoded, picture

pytestmark = pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF; 11.3 and later do")


def with_alpha(width: int = 90, height: int = 60) -> Image.Image:
    image = picture(width, height)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def avif_of_opencv(depth: int, alpha: bool = False) -> bytes:
    samples = np.asarray(with_alpha() if alpha else picture(90, 60))[:, :, [2, 1, 0, 3] if alpha else [2, 1, 0]]
    deep = samples.astype(np.uint16) << depth - 8 if depth > 8 else samples
    return cv2.imencode(".avif", deep, [cv2.IMWRITE_AVIF_DEPTH, depth])[1].tobytes()


AVIF: dict[str, Callable[[], bytes]] = {
    "rgb": lambda: encoded(picture(90, 60), "AVIF"),
    "grey": lambda: encoded(picture(90, 60).convert("L"), "AVIF"),
    "rgba": lambda: encoded(with_alpha(), "AVIF"),
    "sequence": lambda: encoded(picture(90, 60), "AVIF", save_all=True, append_images=[picture(90, 60).rotate(180)]),
    "10 bits": lambda: avif_of_opencv(10),
    "12 bits": lambda: avif_of_opencv(12),
    "10 bits with alpha": lambda: avif_of_opencv(10, alpha=True),
    "large": lambda: encoded(picture(900, 700), "AVIF"),
}


@pytest.mark.parametrize("name", AVIF)
def test_an_avif_is_read_as_pil_reads_it(name: str) -> None:
    data = AVIF[name]()
    image = Image.open(io.BytesIO(data))
    header = read_header(data)
    assert (header.width, header.height) == image.size
    difference = read_image(data).astype(int) - read_image(image)
    assert np.abs(difference).max() <= 1
    assert (
        np.abs(
            read_image(data).astype(int) - np.asarray(picture(*image.size).convert(image.mode).convert("RGB"))
        ).mean()
        < 6
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_is_turned_as_its_container_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation  # Pillow writes this as the container's own turn and mirror
    data = encoded(picture(90, 60), "AVIF", exif=exif)
    assert read_header(data).orientation == orientation
    np.testing.assert_array_equal(read_image(data), read_image(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("name", ["rgba", "10 bits with alpha"])
def test_a_background_shows_behind_an_avif(name: str) -> None:
    data = AVIF[name]()
    back = Image.new("RGBA", (90, 60), (10, 20, 200))
    expected = np.asarray(Image.alpha_composite(back, Image.open(io.BytesIO(data)).convert("RGBA")).convert("RGB"))
    rgb = read_image(data, options=ReadOptions(background=(10, 20, 200)))
    assert np.abs(rgb.astype(int) - expected).max() <= 2  # samples of 10 bits become 8 here, or in the decoder


def test_the_exif_data_never_reach_the_decoder() -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker of the camera"
    data = encoded(picture(90, 60), "AVIF", exif=exif)
    assert b"Exif" in data
    for given, found in ((data, [cv2.IMAGE_METADATA_EXIF]), (read_header(data).data, [])):
        kinds = cv2.imdecodeWithMetadata(np.frombuffer(given, np.uint8), flags=cv2.IMREAD_COLOR)[1]
        assert [kind for kind in kinds if kind == cv2.IMAGE_METADATA_EXIF] == found


def patched(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    start = data.index(box) + 4 + offset
    return data[:start] + value + data[start + len(value) :]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("name", ["rgb", "rgba", "sequence"])
def test_a_truncated_avif_is_an_error(name: str, share: float) -> None:
    data = AVIF[name]()
    with pytest.raises(ImageError, match=r"truncated|damaged|not an image in a supported format"):
        read_image(data[: int(len(data) * share)])


def test_a_small_container_does_not_hide_a_large_image() -> None:
    large = encoded(picture(3000, 2500), "AVIF", speed=10)
    data = patched(large, b"ispe", 4, struct.pack(">LL", 30, 25))
    with pytest.raises(ImageError, match="its data are out of proportion to its picture"):
        read_image(data)
    with pytest.raises(ImageError, match="3000 x 2500 pixels are more than the 1000000"):
        read_image(large, ImageLimits(max_pixels=10**6))


def test_many_frames_in_one_item_are_out_of_proportion() -> None:
    data = AVIF["large"]()
    (start, length), place = av1_item(data)
    repeated = data[start : start + length] * 40
    extent = struct.pack(">LL", len(data) + 8, len(repeated))
    more = struct.pack(">L4s", 8 + len(repeated), b"mdat") + repeated
    data = data[:place] + extent + data[place + 8 :] + more
    with pytest.raises(ImageError, match="its data are out of proportion to its picture"):
        read_image(data)


def av1_item(data: bytes) -> tuple[tuple[int, int], int]:
    """Extent of the first item and where it is written: offsets and lengths of 4 bytes, one extent an item."""
    iloc = data.index(b"iloc") + 4
    assert data[iloc + 4] == 0x44
    place = iloc + 8 + 2 + 2 + 2
    first, length = struct.unpack_from(">LL", data, place)
    return (first, length), place


def test_a_box_that_ends_beyond_the_file_is_truncated() -> None:
    data = AVIF["rgb"]()
    for box in (b"meta", b"iprp", b"ipco", b"iinf"):
        start = data.index(box) - 4
        with pytest.raises(ImageError, match=r"truncated|damaged"):
            read_image(data[:start] + struct.pack(">L", 2**31) + data[start + 4 :])


def test_an_item_beyond_the_file_is_truncated() -> None:
    data = AVIF["rgb"]()
    (start, _), place = av1_item(data)
    with pytest.raises(ImageError, match="truncated"):
        read_image(data[:place] + struct.pack(">LL", start, len(data)) + data[place + 8 :])


def test_a_sequence_without_a_still_image_is_refused() -> None:
    data = AVIF["sequence"]()
    start = data.index(b"meta")
    with pytest.raises(ImageError, match="a sequence without a still image; convert it to PNG"):
        read_image(data[:start] + b"free" + data[start + 4 :])


def test_without_its_plugin_a_heic_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC is read by pillow-heif; run 'pip install \"ghostzoo\[heif\]\"'"):
        read_image(heic_of_av1())


def heic_of_av1() -> bytes:
    """The container of HEIC around an image of AV1, which needs no writer of HEIC."""
    data = AVIF["rgb"]()
    (end,) = struct.unpack_from(">L", data)
    brands = data[8:end].replace(b"avif", b"heic").replace(b"avis", b"heic")
    return data[:8] + brands + data[end:]


@pytest.fixture
def heif() -> Any:
    return pytest.importorskip("pillow_heif", reason="HEIC is written by pillow-heif, the extra 'heif'")


def heic(heif: Any, image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    heif.from_pillow(image).save(file, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_heic_is_read_as_its_plugin_reads_it(heif: Any, mode: str) -> None:
    image = with_alpha() if mode == "RGBA" else picture(90, 60).convert(mode)
    data = heic(heif, image, quality=90)
    shown = heif.open_heif(io.BytesIO(data)).to_pillow()
    np.testing.assert_array_equal(read_image(data), read_image(shown))
    assert np.abs(read_image(data).astype(int) - np.asarray(image.convert("RGB"))).mean() < 6
    options = ReadOptions(background=(10, 20, 200))
    np.testing.assert_array_equal(read_image(data, options=options), read_image(shown, options=options))


@pytest.mark.slow
def test_a_heic_is_bounded_like_an_avif(heif: Any) -> None:
    data = heic(heif, picture(1200, 1000))
    with pytest.raises(ImageError, match="pixels are more than the 1000"):
        read_image(data, ImageLimits(max_pixels=1000))
    large = heic(heif, picture(2300, 1900))
    for start in [start for start in range(len(large)) if large.startswith(b"ispe", start)]:
        large = large[: start + 8] + struct.pack(">LL", 40, 30) + large[start + 16 :]
    with pytest.raises(ImageError, match="its data are out of proportion to its picture"):
        read_image(large)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(ImageError, match=r"truncated|damaged"):
            read_image(data[: int(len(data) * share)])


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">L4s", 8 + len(content), kind) + content


def full_box(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">L", version << 24 | flags), *parts)


def property_of(data: bytes, kind: bytes) -> bytes:
    """The whole box, size and all."""
    start = data.index(kind) - 4
    return data[start : start + int.from_bytes(data[start : start + 4])]


def grid_avif(
    *tiles: bytes,
    repeated: int = 1,
    turn: Sequence[bytes] = (),
    before: bytes = b"",
    more: int = 0,
    wide: bool = False,
) -> bytes:
    """An AVIF whose picture is a row of these AVIFs' images, as cameras lay out large ones.

    Args:
        tiles: the AVIFs.
        repeated: how often each has its frame.
        turn: properties of the whole picture.
        before: boxes before all others but the first.
        more: bytes in references that mean nothing.
        wide: number the items with 32 bits instead of 16, as the boxes' later versions do.
    """
    number = "L" if wide else "H"
    contents = []
    for tile in tiles:
        (start, length), _ = av1_item(tile)
        contents.append(tile[start : start + length] * repeated)
    width, height = struct.unpack(">LL", property_of(tiles[0], b"ispe")[12:])
    layout = struct.pack(">BBBBHH", 0, 0, 0, len(tiles) - 1, width * len(tiles), height)
    contents.insert(0, layout)  # OpenCV wants to find it in the first 500 bytes of the file
    count = len(contents)
    kinds = [b"grid"] + [b"av01"] * len(tiles)
    whole = full_box(b"ispe", struct.pack(">LL", width * len(tiles), height))
    properties = box(b"ipco", *(property_of(tiles[0], kind) for kind in (b"ispe", b"pixi", b"av1C")), whole, *turn)
    used = [b"\4\2" + bytes(0x85 + index for index in range(len(turn)))] + [b"\1\2\x83"] * len(tiles)
    associations = b"".join(struct.pack(f">{number}B", index + 1, len(each)) + each for index, each in enumerate(used))
    references = struct.pack(f">{number}H{len(tiles)}{number}", 1, len(tiles), *range(2, count + 1))

    def meta(place: int) -> bytes:
        extents = b""
        for index, content in enumerate(contents):
            of_file = struct.pack(f">{number}{'HH' if wide else 'H'}", index + 1, *[0] * (1 + wide))
            extents += of_file + struct.pack(">HLL", 1, place, len(content))
            place += len(content)
        infos = (
            full_box(b"infe", struct.pack(f">{number}H4sx", i + 1, 0, kind), version=2 + wide)
            for i, kind in enumerate(kinds)
        )
        return full_box(
            b"meta",
            full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
            full_box(b"pitm", struct.pack(f">{number}", 1), version=wide),
            full_box(b"iloc", b"\x44\0", struct.pack(f">{number}", count), extents, version=2 * wide),
            full_box(b"iinf", struct.pack(f">{number}", count), *infos, version=wide),
            full_box(b"iref", box(b"dimg", references), *[box(b"free", bytes(more))] * (more > 0), version=wide),
            box(b"iprp", properties, full_box(b"ipma", struct.pack(">L", count), associations, version=wide)),
        )

    start = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf") + before
    return start + meta(len(start) + len(meta(0)) + 8) + box(b"mdat", *contents)


@pytest.mark.parametrize("wide", [False, True])
def test_a_grid_is_read_tile_by_tile(wide: bool) -> None:
    """ISO/IEC 14496-12, 8.11: in the later versions of its boxes items have numbers of 32 bits."""
    left, right = picture(128, 96), picture(128, 96).rotate(180)
    data = grid_avif(encoded(left, "AVIF"), encoded(right, "AVIF"), wide=wide)
    header = read_header(data)
    assert (header.width, header.height) == (256, 96)
    expected = np.hstack([read_image(encoded(each, "AVIF")) for each in (left, right)])
    difference = np.abs(read_image(data).astype(int) - expected)
    assert np.delete(difference, range(126, 130), axis=1).max() <= 1  # colours are interpolated across the seam
    np.testing.assert_array_equal(read_image(data), read_image(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("angle", range(4))
def test_each_turn_and_mirror_of_a_container(angle: int, axis: int | None) -> None:
    """ISO/IEC 23008-12, 6.5.10 and 6.5.12, whose other bits are reserved."""
    turn = [box(b"irot", bytes((angle,)))] + ([] if axis is None else [box(b"imir", bytes((axis,)))])
    tile = encoded(picture(128, 96), "AVIF")
    data = grid_avif(tile, tile, turn=turn)
    np.testing.assert_array_equal(read_image(data), read_image(Image.open(io.BytesIO(data))))
    reserved = [each[:8] + bytes((each[8] | 0xFC,)) for each in turn]
    assert read_header(grid_avif(tile, tile, turn=reserved)).orientation == read_header(data).orientation


def test_references_between_items_are_limited_in_size() -> None:
    tile = encoded(picture(128, 96), "AVIF")
    assert read_header(grid_avif(tile, tile, before=box(b"free", bytes(10**5)))).width == 256
    with pytest.raises(ImageError, match="more than 1000 items"):
        read_image(grid_avif(tile, tile, more=64_001))


def test_the_tiles_of_a_grid_count_together() -> None:
    tile = encoded(picture(700, 600), "AVIF", speed=10)
    with pytest.raises(ImageError, match="its data are out of proportion to its picture"):
        read_image(grid_avif(tile, tile, tile, repeated=30))


def test_an_item_of_another_codec_never_reaches_the_decoder() -> None:
    tile = encoded(picture(128, 96), "AVIF")
    data = grid_avif(tile, tile)
    place = data.rindex(b"av01")
    with pytest.raises(ImageError, match="it holds images of an unknown kind; convert it to PNG"):
        read_image(data[:place] + b"j2k1" + data[place + 4 :])

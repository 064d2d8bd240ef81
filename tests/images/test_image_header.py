from __future__ import annotations

import io
import struct
import zlib
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from ghostzoo.errors import ImageError
from ghostzoo.images import decode, gif
from ghostzoo.images.container import HeaderError
from ghostzoo.images.decode import ImageLimits, read_image
from ghostzoo.images.header import read_header
from tests.fixtures.formats import bigtiff, os2_bmp, pnm, sun_raster
from tests.fixtures.hostile_images import gif_of_clear_codes, greedy_exif, tiff
from tests.fixtures.pictures import FORMATS, encoded, picture

LARGE, SMALL = (300, 200), (50, 40)
ENCODED = {name: encoded(picture(), kind, **options) for name, (kind, options) in FORMATS.items()}
RARE = {
    "os2-bmp": os2_bmp(np.asarray(picture())),
    "bigtiff": bigtiff(np.asarray(picture())),
    "sun-raster": sun_raster(np.asarray(picture())),
    "code-stream": encoded(picture(), "JPEG2000", no_jp2=True),
    "pgm": pnm(np.asarray(picture().convert("L")).astype(int) * 4, 1020),
}
if features.check("avif"):
    RARE["avif"] = encoded(picture(), "AVIF")


def decoded_size(data: bytes) -> tuple[int, int]:
    header = read_header(data)
    return header.width, header.height


def opencv_size(data: bytes) -> tuple[int, int] | None:
    """What the decoder makes of it, without any check of ours."""
    try:
        pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return None if pixels is None else (pixels.shape[1], pixels.shape[0])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [(45, 30), (1, 1), (17, 200)])
def test_the_size_is_the_decoders(name: str, size: tuple[int, int]) -> None:
    kind, options = FORMATS[name]
    data = encoded(picture(*size), kind, **options)
    assert decoded_size(data) == size == opencv_size(data)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_an_error_not_half_a_picture(name: str, share: float) -> None:
    data = ENCODED[name]
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        read_image(data[: int(len(data) * share)])


def test_what_follows_the_end_of_a_jpeg_does_not_matter() -> None:
    # Phones append a film, whose bytes may look like a scan that begins and never ends.
    data = ENCODED["jpeg"] + b"ftypmp42" + b"\xff\xda\0\x08" * 20
    np.testing.assert_array_equal(read_image(data), read_image(ENCODED["jpeg"]))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_size_is_found_near_and_far(options: dict[str, Any]) -> None:
    data = encoded(picture(45, 30), "JPEG", **options)
    assert data.endswith(b"\xff\xd9")
    assert decoded_size(data) == decoded_size(data + b"\0") == (45, 30)
    with pytest.raises(HeaderError, match="truncated"):
        decoded_size(data[:-2])


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_truncated() -> None:
    thumbnail = ENCODED["jpeg"]
    app1 = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 8) + b"Exif\0\0" + thumbnail
    data = encoded(picture(400, 300), "JPEG")
    whole = data[:2] + app1 + data[2:]
    assert decoded_size(whole) == (400, 300) == opencv_size(whole)
    with pytest.raises(HeaderError, match="truncated"):
        decoded_size(whole[:-2000])


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a",
        b"\xff\xd8\xff",
        b"BM",
        b"II*\0",
        b"MM\0*\0\0\0\x08\0\x09",
        b"\x89PNG\r\n\x1a\n\0\0IEND",
        b"RIFF\0\0\0\0WEBP",
    ],
)
def test_a_header_that_breaks_off_is_an_error(data: bytes) -> None:
    with pytest.raises(HeaderError, match=r"truncated|damaged"):
        decoded_size(data)


@pytest.mark.parametrize(
    "data",
    [
        b"no image",
        b"%PDF-1.7",
        b"\0" * 64,
        b'<svg width="9" height="9"/>',
        b"PK\x03\x04",
        b"v/1\1",
    ],
)
def test_another_format_is_refused_naming_those_that_are_read(data: bytes) -> None:
    with pytest.raises(HeaderError, match=r"not an image in a supported format \(JPEG, PNG, WebP"):
        decoded_size(data)


# Below: files whose size could be read in two ways. Each shows SMALL to a careless reader and LARGE to the decoder.


def jpeg_frame(data: bytes) -> bytes:
    start = data.index(b"\xff\xc0")
    return data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4])]


def ambiguous_jpeg() -> bytes:
    """The decoder passes over FF 00 as rubbish; taken as a marker with a length, it hides the true frame header."""
    data, fake = encoded(picture(*LARGE), "JPEG"), jpeg_frame(encoded(picture(*SMALL), "JPEG"))
    frame = jpeg_frame(data)
    before, after = data[2:].split(frame)
    hidden = before + frame + b"\xff\xfe" + struct.pack(">H", len(fake) + 2)
    return data[:2] + b"\xff\0" + struct.pack(">H", len(hidden) + 2) + hidden + fake + after


def ambiguous_ppm() -> bytes:
    """The decoder ends a comment at a carriage return, others at a line feed."""
    return b"P6\n#\r300 200 255\r\n50 40 255\n" + bytes(300 * 200 * 3)


def tiff_with(data: bytes, first: list[bytes]) -> bytes:
    """The TIFF file with a new directory at its end, in which these entries come first."""
    (start,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    tags = {entry[:2] for entry in first}
    entries = [data[start + 2 + 12 * index :][:12] for index in range(count)]
    entries = first + [entry for entry in entries if entry[:2] not in tags]
    data += bytes(len(data) % 2)
    return (
        data[:4]
        + struct.pack("<LL", len(data), 0)[:4]
        + data[8:]
        + struct.pack("<H", len(entries))
        + b"".join(entries)
        + bytes(4)
    )


def tiff_entry(tag: int, value: int, kind: int = 3, count: int = 1) -> bytes:
    return struct.pack("<HHLL", tag, kind, count, value)


def doubled_tiff() -> bytes:
    return tiff_with(
        encoded(picture(*LARGE), "TIFF", compression="tiff_adobe_deflate"),
        [tiff_entry(256, 300), tiff_entry(256, 50), tiff_entry(257, 200), tiff_entry(257, 40)],
    )


def webp_in_small_canvas() -> bytes:
    canvas = b"VP8X" + struct.pack("<LL", 10, 0) + (49).to_bytes(3, "little") + (39).to_bytes(3, "little")
    body = b"WEBP" + canvas + encoded(picture(*LARGE), "WEBP")[12:]
    return b"RIFF" + struct.pack("<L", len(body)) + body


def animation_in_small_canvas() -> bytes:
    data = encoded(picture(*LARGE), "WEBP", save_all=True, append_images=[Image.new("RGB", LARGE)])
    start = data.index(b"VP8X") + 12
    return data[:start] + (49).to_bytes(3, "little") + (39).to_bytes(3, "little") + data[start + 6 :]


def gif_on_small_screen() -> bytes:
    data = encoded(picture(*LARGE), "GIF")
    return data[:6] + struct.pack("<HH", *SMALL) + data[10:]


def png_with_two_headers() -> bytes:
    return encoded(picture(*SMALL), "PNG")[:33] + encoded(picture(*LARGE), "PNG")[8:]


def jpeg2000_in_small_box() -> bytes:
    data = encoded(picture(*LARGE), "JPEG2000")
    start = data.index(b"ihdr") + 4
    return data[:start] + struct.pack(">LL", SMALL[1], SMALL[0]) + data[start + 8 :]


@pytest.mark.parametrize(
    "make",
    [
        ambiguous_jpeg,
        ambiguous_ppm,
        doubled_tiff,
        webp_in_small_canvas,
        animation_in_small_canvas,
        gif_on_small_screen,
        png_with_two_headers,
        jpeg2000_in_small_box,
    ],
)
def test_header_and_decoder_see_the_same_size(make: Any) -> None:
    data = make()
    decoded = opencv_size(data)
    try:
        width, height = decoded_size(data)
    except HeaderError:
        pass
    else:
        assert decoded is None or decoded == (width, height)
    with pytest.raises(ImageError):
        read_image(data, ImageLimits(max_pixels=SMALL[0] * SMALL[1]))


def test_the_crafted_files_would_deceive_a_careless_reader() -> None:
    assert opencv_size(ambiguous_jpeg()) == LARGE
    assert opencv_size(ambiguous_ppm()) == LARGE
    assert opencv_size(doubled_tiff()) not in (None, SMALL)
    imagesize = pytest.importorskip("imagesize", reason="imagesize, a careless reader, is not installed here")

    for data in (ambiguous_jpeg(), ambiguous_ppm(), doubled_tiff()):
        assert imagesize.get(io.BytesIO(data)) == SMALL


def test_tiles_count_as_what_they_hold() -> None:
    data = encoded(picture(*SMALL), "TIFF")
    assert decoded_size(tiff_with(data, [tiff_entry(322, 30000), tiff_entry(323, 30000)])) == (30000, 30000)
    assert decoded_size(tiff_with(data, [tiff_entry(322, 16), tiff_entry(323, 32)])) == (64, 64)
    assert decoded_size(tiff_with(data, [tiff_entry(256, 70000, kind=4)])) == (70000, 40)


@pytest.mark.parametrize(
    "entry", [tiff_entry(256, 50, kind=1), tiff_entry(257, 8, count=2), tiff_entry(256, 5, kind=16)]
)
def test_a_tiff_size_in_an_unusual_form_is_refused(entry: bytes) -> None:
    with pytest.raises(HeaderError, match=r"(width|height) twice or in no valid form"):
        decoded_size(tiff_with(encoded(picture(*SMALL), "TIFF"), [entry]))


def test_a_tiff_without_a_size_is_refused() -> None:
    with pytest.raises(HeaderError, match="gives no size"):
        decoded_size(b"II*\0" + struct.pack("<LH", 8, 0) + bytes(4))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ENCODED | RARE)), st.data())
def test_a_changed_header_never_hides_a_larger_image(name: str, data: st.DataObject) -> None:
    content = bytearray((ENCODED | RARE)[name])
    changes = st.tuples(st.integers(0, min(len(content), 700) - 1), st.integers(0, 255))
    for position, value in data.draw(st.lists(changes, min_size=1, max_size=6)):
        content[position] = value
    try:
        width, height = decoded_size(bytes(content))
    except HeaderError:
        return
    if width * height > 10**6:
        return  # it is not decoded then
    decoded = opencv_size(bytes(content))
    assert decoded is None or decoded == (width, height)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def bomb_png(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"tEXt", b"IEND"])
@pytest.mark.parametrize("claimed", [2**31 - 1, 2**31 + 5, 2**32 - 1])
def test_a_png_chunk_with_a_false_length_allocates_nothing(kind: bytes, claimed: int) -> None:
    text = chunk(b"tEXt", b"Comment\0x")
    data = bytearray(encoded(picture(*SMALL), "PNG"))
    data[33:33] = text
    start = data.index(kind) - 4
    data[start : start + 4] = struct.pack(">L", claimed)
    with pytest.raises(HeaderError, match="truncated or damaged"):
        decoded_size(bytes(data))


def test_what_was_decoded_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the decoder ever see another size than the header's reader, the limit still holds."""
    honest = decode.read_header
    monkeypatch.setattr(
        decode, "read_header", lambda data, **options: replace(honest(data, **options), width=2, height=2)
    )
    limits = ImageLimits(max_pixels=LARGE[0] * LARGE[1] - 1)
    with pytest.raises(ImageError, match=r"pixels are more than"):
        read_image(encoded(picture(*LARGE), "PNG"), limits)


def test_of_a_gif_the_first_frame_alone_is_checked_and_kept() -> None:
    """The decoder stops after the first frame, so that is the one whose cost counts."""
    costly, cheap = gif_of_clear_codes(), encoded(picture(*SMALL), "GIF")
    # After the screen and its colours come the frames, and then one byte that ends the file.
    costly_frames, cheap_frames = (data[13 + 3 * 2 ** (1 + data[10] % 8) :] for data in (costly, cheap))
    with pytest.raises(HeaderError, match="out of proportion"):
        read_header(costly[:-1] + cheap_frames).check_data()
    header = read_header(cheap[:-1] + costly_frames)
    assert header.data == cheap
    header.check_data()


@pytest.mark.parametrize(
    "data",
    [
        bomb_png(2**31 - 1, 2**31 - 1),
        bomb_png(15000, 15000),
        b"P6 30000 30000 255\n" + bytes(100),
        b"BM" + struct.pack("<LLLLllHHL", 100, 0, 54, 40, 30000, -30000, 1, 24, 0) + bytes(100),
        ENCODED["gif"][:6] + struct.pack("<HH", 40000, 40000) + ENCODED["gif"][10:],
        tiff_with(encoded(picture(*SMALL), "TIFF"), [tiff_entry(322, 40000), tiff_entry(323, 40000)]),
    ],
    ids=["png-largest", "png", "ppm", "bmp", "gif", "tiff-tile"],
)
def test_a_bomb_is_refused_before_it_is_decoded(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: Any) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(cv2, "imdecode", decode)
    with pytest.raises(ImageError, match=r"\d+ x \d+ pixels are more than the 100000000 that are decoded"):
        read_image(data)


def strips_of_tiff(kind: int, counted: int = 40_000) -> bytes:
    """Grey, 400 x 300, in three strips, whose sizes have this type."""
    pixels = np.asarray(picture(400, 300).convert("L")).tobytes()
    counts = struct.pack({3: "<3H", 4: "<3L", 9: "<3l"}[kind], *[counted] * 3)
    offsets = struct.pack("<3L", *(8 + 40_000 * strip for strip in range(3)))
    entries = [(256, 3, 1, 400), (257, 3, 1, 300), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    entries += [(278, 3, 1, 100), (273, 4, 3, 8 + len(pixels)), (279, kind, 3, 8 + len(pixels) + len(offsets))]
    return tiff(entries, pixels + offsets + counts)


def test_a_large_tiff_may_count_its_bytes_in_16_bits() -> None:
    expected = np.asarray(picture(400, 300).convert("L"))
    for kind in (3, 4):
        np.testing.assert_array_equal(read_image(strips_of_tiff(kind))[:, :, 0], expected)


@pytest.mark.parametrize(
    ("size", "kinds"), [(1, (1, 2, 6, 7)), (2, (3, 8)), (4, (4, 9, 11, 13)), (8, (5, 10, 12, 16, 17, 18))]
)
def test_fields_of_a_tiff_take_what_their_type_says(size: int, kinds: tuple[int, ...]) -> None:
    """TIFF 6.0, section 2, and BigTIFF; in all they may take four times the file's bytes."""
    count = 49_000 // size
    for kind in kinds:
        for times, refused in ((8, False), (9, True)):
            entries = [(256, 3, 1, 10), (257, 3, 1, 10)] + [(50_000 + tag, kind, count, 8) for tag in range(times)]
            with pytest.raises(HeaderError, match="same data read many times") if refused else nullcontext():
                read_header(tiff(entries, bytes(100_000)))


@pytest.mark.parametrize("kind", [4, 9])
def test_signed_counts_are_counted_too(kind: int) -> None:
    data = strips_of_tiff(kind, counted=2**30)
    with pytest.raises(HeaderError, match="its header has the same data read many times"):
        decoded_size(data + bytes(2 * 10**6))


@pytest.mark.parametrize("tag", [256, 257])
def test_a_tiff_without_a_side_has_no_size(tag: int) -> None:
    data = bytearray(encoded(picture(*SMALL), "TIFF"))
    (start,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [start + 2 + 12 * index for index in range(count)]
    (place,) = [entry for entry in entries if struct.unpack_from("<H", data, entry) == (tag,)]
    struct.pack_into("<H", data, place, 60000)
    with pytest.raises(HeaderError, match="gives no size"):
        read_header(bytes(data))


@pytest.mark.parametrize(
    ("field", "value"),
    [*((field, 0) for field in (0, 1, 4, 5)), *((field, 2**32 - 1) for field in (2, 3, 6, 7))],
)
def test_a_jpeg2000_of_impossible_sides_is_damaged(field: int, value: int) -> None:
    """Right, bottom, left, top, the tiles' width and height, and where the first one starts; Annex A.5.1."""
    data = bytearray(encoded(picture(*SMALL), "JPEG2000"))
    struct.pack_into(">L", data, data.index(b"\xff\x51") + 6 + 4 * field, value)
    with pytest.raises(HeaderError, match="header is damaged"):
        read_header(bytes(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_greedy_exif_is_refused_in_both_kinds_of_jpeg(progressive: bool) -> None:
    data = encoded(picture(), "JPEG", progressive=progressive)
    segment = b"\xff\xe1\xff\xff" + b"Exif\0\0" + greedy_exif(65527)
    read_header(data)
    with pytest.raises(HeaderError, match="EXIF data are out of proportion"):
        read_header(data[:2] + segment * 480 + data[2:])


@pytest.mark.parametrize("kind", [0xC2, 0xC6, 0xCA, 0xCE])
def test_scans_of_each_progressive_kind_are_counted(kind: int) -> None:
    """Progressive, differential and arithmetic: T.81, table B.1."""
    data = encoded(picture(*LARGE), "JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    assert scans > 5
    assert read_header(data.replace(b"\xff\xc2", bytes((0xFF, kind)), 1)).scans == scans


def test_rubbish_between_the_parts_of_a_gif_is_damage() -> None:
    data = encoded(picture(*SMALL), "GIF")
    start = 13 + 3 * 2 ** (1 + data[10] % 8)
    for kind in (0x00, 0x20, 0x2D, 0xFF):
        with pytest.raises(HeaderError, match="damaged"):
            read_header(data[:start] + bytes((kind, 0, 0)) + data[start:])


def test_a_gif_may_have_a_million_blocks() -> None:
    data = encoded(picture(*SMALL), "GIF")
    screen = 13 + 3 * 2 ** (1 + data[10] % 8)
    comment = b"!\xfe" + b"\1." * 999_000 + b"\0"
    assert read_header(data[:screen] + comment + data[screen:]).width == SMALL[0]
    with pytest.raises(HeaderError, match="more than 1000000 blocks"):
        read_header(data[:screen] + comment + comment + data[screen:])


def resets_of_gif(data: bytes) -> int:
    """Counted code by code, as appendix F of the GIF89a specification says."""
    start = 13 + 3 * 2 ** (1 + data[10] % 8) + 11
    bits, position, stream = data[start - 1], start, b""
    while length := data[position]:
        stream += data[position + 1 : position + 1 + length]
        position += 1 + length
    text = "".join(f"{byte:08b}"[::-1] for byte in stream)
    place, entries, resets = 0, 2**bits + 1, 0
    while place < len(text):
        length = min(12, entries.bit_length())  # each code but the first after a reset makes an entry
        code = int(text[place : place + length][::-1], 2)
        place, entries = place + length, entries + 1
        if code in (2**bits, 2**bits + 1):
            entries, resets = 2**bits + 1, resets + 1
    return resets


@pytest.mark.parametrize("colours", [4, 32, 256])
def test_the_resets_of_a_gif_are_counted_one_by_one(colours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, colours, (150, 150), np.uint8)
    image = Image.fromarray(noise, "P")
    image.putpalette(bytes(range(256)) * 3)
    data = encoded(image, "GIF", optimize=False)
    resets = resets_of_gif(data)
    assert resets > 2
    for most, refused in ((resets, False), (resets - 1, True)):
        monkeypatch.setattr(gif, "_MOST_RESETS", most)
        with pytest.raises(HeaderError, match="out of proportion") if refused else nullcontext():
            read_header(data).check_data()

"""What an image may cost, what a URL may do, and what is said of a file that cannot be read."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ghostzoo.errors import ImageError, OptionError
from ghostzoo.images.decode import ImageLimits, describe, read_image
from tests.fixtures.pictures import FORMATS, encoded, picture
from tests.fixtures.server import content, drip, redirect, serve

PNG = encoded(picture(), "PNG")
PIXELS = np.asarray(picture())
ENCODED = {name: encoded(picture(), kind, **options) for name, (kind, options) in FORMATS.items()}


def forms(image: Image.Image, folder: Path) -> list[Any]:
    """The same image as everything that is read."""
    path = folder / "image.png"
    image.save(path)
    data = path.read_bytes()
    return [path, str(path), data, memoryview(data), io.BytesIO(data), image, np.asarray(image)]


def test_pixels_are_limited_for_every_kind_of_input(tmp_path: Path) -> None:
    for source in forms(picture(), tmp_path):
        assert read_image(source, ImageLimits(max_pixels=45 * 30)).shape == (30, 45, 3)
    for source in forms(picture(), tmp_path):
        with pytest.raises(ImageError, match=r"45 x 30 pixels are more than the 1349 .*max_pixels.*make it smaller"):
            read_image(source, ImageLimits(max_pixels=45 * 30 - 1))


def test_long_and_thin_images_are_limited(tmp_path: Path) -> None:
    for size in ((201, 1), (1, 201)):
        for source in forms(Image.new("RGB", size), tmp_path):
            with pytest.raises(ImageError, match=r"too long and thin: at most 200 to 1 \(max_aspect_ratio\); crop it"):
                read_image(source, ImageLimits())
        for source in forms(Image.new("RGB", size), tmp_path):
            assert read_image(source, ImageLimits(max_aspect_ratio=201)).shape == (*size[::-1], 3)


def test_encoded_bytes_are_limited(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    wide = memoryview(np.frombuffer(PNG + bytes(-len(PNG) % 8), np.uint64))  # type: ignore[arg-type]
    for source in (path, PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG), wide):
        with pytest.raises(ImageError, match=r"more than the 900 bytes that are read .max_bytes."):
            read_image(source, ImageLimits(max_bytes=900))
    assert read_image(PNG, ImageLimits(max_bytes=len(PNG))).shape == (30, 45, 3)
    np.testing.assert_array_equal(read_image(wide), PIXELS)


@pytest.mark.parametrize(
    "name", ["max_bytes", "max_pixels", "max_aspect_ratio", "max_scans", "url_timeout", "max_redirects"]
)
@pytest.mark.parametrize("value", [-1, "10", None, True, float("nan"), float("inf"), 10**10])
def test_a_senseless_limit_is_refused(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name} must be "):
        ImageLimits(**{name: value})


def test_limits_take_numpy_numbers_and_zero_redirects() -> None:
    limits = ImageLimits(max_pixels=np.int64(10), url_timeout=np.float32(0.5), max_redirects=0)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="more than the 10 that"):
        read_image(PNG, limits)


def test_a_folder_a_missing_file_and_a_pipe_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="it is a folder; pass it to predict"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match=r"missing\.jpg: there is no such file"):
        read_image(tmp_path / "missing.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="there is no such file"):
        read_image(str(tmp_path / "dangling.jpg"))
    with pytest.raises(ImageError, match="it cannot be opened"):
        read_image("a\0b.jpg")
    with pytest.raises(ImageError, match="it cannot be opened"):
        read_image("a" * 5000)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(ImageError, match="not a regular file"):
            read_image(tmp_path / "pipe.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read every file")
def test_a_file_that_may_not_be_read_is_an_image_error(tmp_path: Path) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(PNG)
    path.chmod(0)
    with pytest.raises(ImageError, match=r"locked\.png: it cannot be opened \(Permission denied\)"):
        read_image(path)


@pytest.mark.parametrize("data", [b"", b"no image", PNG[:200], PNG[:-30]], ids=["empty", "text", "header", "cut"])
def test_a_bad_file_is_one_sentence_with_its_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "kaputt ä.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        for source in (path, str(path), file):
            with pytest.raises(ImageError) as caught:
                read_image(source)
            assert str(caught.value).startswith(f"{path}: it ")
            assert "\n" not in str(caught.value)
            assert caught.value.source == str(path)
    with pytest.raises(ImageError, match=f"<{len(data)} bytes>: it "):
        read_image(data)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (io.StringIO("text"), "it returns no bytes; open it with mode 'rb'"),
        (io.BytesIO(), "it is empty"),
        (io.BufferedWriter(io.BytesIO()), "<BufferedWriter>: it cannot be read"),
    ],
)
def test_a_file_object_that_gives_no_image_is_an_image_error(file: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(file)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("dir/é.jpg", "dir/é.jpg"),
        (Path("a.jpg"), "a.jpg"),
        ("https://user:secret@host:81/a/b.jpg?token=secret#secret", "https://host:81/a/b.jpg"),
        ("http://user:secret@[::1", "<malformed URL of 23 characters>"),
        (memoryview(np.zeros((2, 3), np.float32)), "<24 bytes>"),  # type: ignore[arg-type]
        (np.zeros((2, 3), np.uint8), "<array 2 x 3 uint8>"),
        (Image.new("RGB", (2, 2)), "<Image>"),
        (7, "<int>"),
    ],
)
def test_messages_name_an_image_without_its_secrets(source: Any, name: str) -> None:
    assert describe(source) == name


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    routes = {
        "/cat.png": content(PNG, content_type="image/png"),
        "/猫.png": content(PNG),
        "/%E7%8C%AB.png": content(PNG),
        "/hop": redirect("/cat.png"),
        "/hop-hop": redirect("/hop"),
        "/page": content(b"<!DOCTYPE html><p>Not found</p>", content_type="text/html"),
        "/empty": content(b""),
        "/to-file": redirect("file:///etc/hostname"),
        "/endless": content(bytes(2_000_000), with_length=False),
        "/drip": drip,
    }
    with serve(routes) as place:
        yield place


@pytest.mark.parametrize("path", ["/cat.png", "/cat.png?w=1#x", "/猫.png", "/hop", "/hop-hop"])
def test_an_image_is_read_from_a_url(address: str, path: str) -> None:
    np.testing.assert_array_equal(read_image(address + path), PIXELS)
    np.testing.assert_array_equal(read_image(address.replace("http", "HTTP") + path), PIXELS)


@pytest.mark.parametrize(
    ("path", "limits", "message"),
    [
        ("/missing.png", {}, "the server answered 404"),
        ("/page", {}, "not an image in a supported format"),
        ("/empty", {}, "it is empty"),
        ("/to-file", {}, "only http and https are followed"),
        ("/hop-hop", {"max_redirects": 1}, "redirects more than 1 times"),
        ("/cat.png", {"max_bytes": 100}, "more than the 100 bytes that are read (max_bytes)"),
        ("/endless", {"max_bytes": 10_000}, "more than the 10000 bytes"),
        ("/cat.png", {"max_pixels": 100}, "more than the 100 that are decoded"),
        ("/drip", {"url_timeout": 0.3}, "did not arrive in time; try again (url_timeout)"),
    ],
)
def test_a_bad_url_is_one_sentence_with_its_address(
    address: str, path: str, limits: dict[str, Any], message: str
) -> None:
    with pytest.raises(ImageError, match=re.escape(message)) as caught:
        read_image(f"{address}{path}?token=secret", ImageLimits(**limits))
    assert caught.value.source == address + path
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://", "https://[::1", "http://127.0.0.1:1/a.jpg", "http://127.0.0.1:99999/"])
def test_an_address_without_a_server_is_an_image_error(url: str) -> None:
    with pytest.raises(ImageError):
        read_image(url)


def check_image_or_image_error(data: bytes) -> None:
    try:
        rgb = read_image(data, ImageLimits(max_pixels=10**6))
    except ImageError as error:
        problem = error
    else:
        assert rgb.dtype == np.uint8
        assert rgb.ndim == 3
        assert rgb.shape[2] == 3
        assert 0 < rgb.shape[0] * rgb.shape[1] <= 10**6
        return
    assert problem.source == f"<{len(data)} bytes>"
    assert "\n" not in problem.reason
    assert len(problem.reason) < 300


SIGNATURES = [data[:12] for data in ENCODED.values()] + [b"", b"P6 ", b"P1 ", b"MM\0*", b"\0\0\0\x20ftypavif", b"<svg"]


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(SIGNATURES), st.binary(max_size=300))
@example(b"<svg", b' width="' + b"9" * 400 + b'" height="1">')
@example(b"P6 ", b"9" * 5000 + b" 1 255 ")
def test_any_bytes_are_an_image_or_an_image_error(signature: bytes, rest: bytes) -> None:
    check_image_or_image_error(signature + rest)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(ENCODED)), st.data())
def test_a_damaged_file_is_an_image_or_an_image_error(name: str, data: st.DataObject) -> None:
    content = bytearray(ENCODED[name])
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)))):
        content[position] = value
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(content)), st.integers(0, len(content)))))
    if data.draw(st.booleans()):
        del content[start:end]
    check_image_or_image_error(bytes(content))


def test_what_the_decoder_itself_refuses_is_an_image_error() -> None:
    """OpenCV reads at most 2**20 columns."""
    data = encoded(Image.new("L", (2**20 + 1, 1)), "BMP")
    with pytest.raises(ImageError, match=r"it cannot be decoded .*WIDTH"):
        read_image(data, ImageLimits(max_aspect_ratio=2**21))


def test_a_message_names_the_limit_as_its_caller_knows_it() -> None:
    large, thin, tall = (encoded(Image.new("RGB", size), "PNG") for size in ((90, 90), (90, 1), (1, 90)))
    values = {"max_pixels": 8000, "max_aspect_ratio": 2, "max_bytes": 1000}
    names = {"max_pixels": "--max-pixels", "max_bytes": "--max-body-mb"}
    for source in (large, thin, tall, bytes(2000)):
        with pytest.raises(ImageError, match=r"\(max_(pixels|aspect_ratio|bytes)\)"):
            read_image(source, ImageLimits(**values))  # type: ignore[arg-type]
        with pytest.raises(ImageError, match=r"\((--max-pixels|max_aspect_ratio|--max-body-mb)\)"):
            read_image(source, ImageLimits(**values, option_names=names))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"too long and thin: at most 200 to 1; crop it"):
        read_image(encoded(Image.new("RGB", (201, 1)), "PNG"))  # by a caller who lets nobody choose limits

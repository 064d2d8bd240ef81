from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ghostzoo.errors import InputError
from ghostzoo.images.inputs import IMAGE_SUFFIXES, count_at_hand, expand, is_single

PIXELS = np.zeros((4, 6, 3), np.uint8)


def make(folder: Path, *names: str) -> list[Path]:
    """Files with these names, empty: nothing here may look into them."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def names(images: Any, folder: Path) -> list[str]:
    return [Path(image).relative_to(folder).as_posix() for image in expand(images)]


@pytest.mark.parametrize(
    "source",
    [
        "cat.jpg",
        "no/such/file",
        Path("cat.jpg"),
        "http://127.0.0.1/a*.jpg?x=[1]",
        "HTTPS://EXAMPLE.COM/",
        b"bytes",
        bytearray(b"bytes"),
        memoryview(b"bytes"),
        io.BytesIO(b"x"),
        Image.new("RGB", (2, 2)),
        PIXELS,
        PIXELS[:, :, 0],
        np.array(3, np.uint8),
    ],
    ids=lambda source: type(source).__name__,
)
def test_one_image_is_itself(source: Any) -> None:
    assert is_single(source)
    (image,) = expand(source)
    assert image is source


def test_a_batch_array_is_several_images() -> None:
    batch = np.stack([PIXELS, PIXELS + 1])
    assert not is_single(batch)
    for image, expected in zip(expand(batch), batch, strict=True):
        np.testing.assert_array_equal(image, expected)
    assert list(expand(np.empty((0, 4, 6, 3), np.uint8))) == []


def test_an_array_of_paths_is_several_images() -> None:
    assert list(expand(np.array(["a.jpg", "b.jpg"]))) == ["a.jpg", "b.jpg"]
    assert list(expand(np.array([Path("a.jpg"), b"bytes"], object))) == [Path("a.jpg"), b"bytes"]


def test_iterables_of_anything_are_flattened_in_order(tmp_path: Path) -> None:
    first, second = make(tmp_path / "folder", "1.png", "2.png")
    picture = Image.new("L", (2, 2))
    mixed = (image for image in ["a.jpg", tmp_path / "folder", [PIXELS, (b"x", picture)], {"b.jpg": 0}.keys(), []])
    images = list(expand(mixed))
    assert images[:3] == ["a.jpg", first, second]
    assert images[3] is PIXELS
    assert images[4:] == [b"x", picture, "b.jpg"]
    assert list(expand([])) == []


def test_nothing_is_taken_before_it_is_asked_for() -> None:
    taken = []

    def endless() -> Iterator[str]:
        for number in itertools.count():
            taken.append(number)
            yield f"{number}.jpg"

    images = expand(endless())
    assert taken == []
    assert list(itertools.islice(images, 3)) == ["0.jpg", "1.jpg", "2.jpg"]
    assert taken == [0, 1, 2]


def test_an_error_of_the_callers_iterable_passes_in_its_place() -> None:
    def failing() -> Iterator[str]:
        yield "a.jpg"
        raise RuntimeError("the camera is gone")

    images = expand(failing())
    assert next(images) == "a.jpg"
    with pytest.raises(RuntimeError, match="the camera is gone"):
        next(images)


@pytest.mark.parametrize("source", [None, 3, 1.5, {"image": "a.jpg"}, object(), [["a.jpg", 7]], range(2)])
def test_what_is_no_image_is_refused_with_its_kind(source: Any) -> None:
    with pytest.raises(InputError, match=r"(NoneType|int|float|dict|object) is neither an image nor several"):
        list(expand(source))


def test_a_folder_gives_images_by_name_in_any_suffix_case(tmp_path: Path) -> None:
    make(tmp_path, "b.JPG", "a b.png", "日本/猫.webp", "ä/ö.tiff", "notes.txt", "no-suffix", "c.jpg.part", "x.avif")
    expected = ["a b.png", "b.JPG", "x.avif", "ä/ö.tiff", "日本/猫.webp"]
    assert names(tmp_path, tmp_path) == expected
    assert names(str(tmp_path), tmp_path) == expected
    assert names(os.fsencode(tmp_path).decode() + os.sep, tmp_path) == expected


def test_every_known_suffix_is_found_in_a_folder(tmp_path: Path) -> None:
    make(tmp_path, *(f"x{suffix}" for suffix in IMAGE_SUFFIXES))
    assert len(list(expand(tmp_path))) == len(IMAGE_SUFFIXES)


def test_what_a_folder_holds_besides_is_reported_and_not_lost(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "notes.txt", ".hidden.jpg", ".thumbnails/a.jpg", "deep/.x.png", "deep/b.png")
    (tmp_path / "circle.jpg").symlink_to(tmp_path, target_is_directory=True)
    skipped: list[Path] = []
    images = list(expand(tmp_path, skipped.append))
    assert [path.name for path in images] == ["a.jpg", "b.png"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in skipped) == [
        ".hidden.jpg",
        ".thumbnails",
        "circle.jpg",
        "deep/.x.png",
        "notes.txt",
    ]


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    make(tmp_path, ".cache/a.jpg", ".cache/.b.jpg")
    assert names(tmp_path / ".cache", tmp_path) == [".cache/a.jpg"]


def test_a_folder_without_images_is_an_error_that_names_it(tmp_path: Path) -> None:
    make(tmp_path, "notes.txt", ".a.jpg")
    with pytest.raises(InputError, match="There are no images in ") as caught:
        list(expand(tmp_path))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read every folder")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "locked/b.jpg")
    (tmp_path / "locked").chmod(0)
    with pytest.raises(InputError, match="locked cannot be read: Permission denied"):
        list(expand(tmp_path))
    (tmp_path / "locked").chmod(0o700)


def test_patterns_match_in_order_and_take_files_of_any_suffix(tmp_path: Path) -> None:
    make(tmp_path, "b.jpg", "a.jpg", "c.raw", "日本.jpg", ".hidden.jpg", "deep/d.jpg", "deep/deeper/e.jpg")
    assert names(str(tmp_path / "*.jpg"), tmp_path) == ["a.jpg", "b.jpg", "日本.jpg"]
    assert names(tmp_path / "[bc].*", tmp_path) == ["b.jpg", "c.raw"]
    assert names(str(tmp_path / "?.jpg"), tmp_path) == ["a.jpg", "b.jpg"]
    assert names(str(tmp_path / ".*.jpg"), tmp_path) == [".hidden.jpg"]
    assert names(str(tmp_path / "**" / "*.jpg"), tmp_path) == [
        "a.jpg",
        "b.jpg",
        "deep/d.jpg",
        "deep/deeper/e.jpg",
        "日本.jpg",
    ]


def test_a_pattern_takes_images_of_matching_folders_once(tmp_path: Path) -> None:
    make(tmp_path, "cats/1.jpg", "cats/notes.txt", "cats/deep/2.jpg", "dogs/3.jpg")
    assert names(str(tmp_path / "c*"), tmp_path) == ["cats/1.jpg", "cats/deep/2.jpg"]
    skipped: list[Path] = []
    images = list(expand(str(tmp_path / "**"), skipped.append))
    assert images == list(expand(tmp_path))
    assert names(str(tmp_path / "*" / "**"), tmp_path) == ["cats/1.jpg", "cats/deep/2.jpg", "dogs/3.jpg"]
    assert skipped == [tmp_path / "cats" / "notes.txt"]


def test_patterns_work_relative_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "sub/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert list(expand("s*/*.jpg")) == [Path("sub/a.jpg")]
    assert list(expand("sub")) == [Path("sub/a.jpg")]


@pytest.mark.parametrize("pattern", ["*.jpg", "**/*.png", "[", "a[1", "no-such-folder/*"])
def test_a_pattern_without_a_match_is_an_error_that_names_it(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match="There are no images in ") as caught:
        list(expand(str(tmp_path / pattern)))
    assert pattern in str(caught.value) or pattern == "["


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    odd, *_ = make(tmp_path, "[1].jpg", "1.jpg", "what?.jpg", "whats.jpg")
    assert is_single(str(odd))
    assert list(expand(str(odd))) == [str(odd)]
    assert list(expand(tmp_path / "what?.jpg")) == [tmp_path / "what?.jpg"]


def test_a_folder_whose_name_looks_like_a_pattern_is_that_folder(tmp_path: Path) -> None:
    make(tmp_path, "holiday [2024]/a.jpg", "holiday [2024]/x/b.jpg", "holiday 2/c.jpg")
    assert names(tmp_path / "holiday [2024]", tmp_path) == ["holiday [2024]/a.jpg", "holiday [2024]/x/b.jpg"]
    assert names(str(tmp_path / "holiday [2024]" / "*.jpg"), tmp_path) == ["holiday [2024]/a.jpg"]
    assert names(str(tmp_path / "holiday [2024]" / "*" / "?.jpg"), tmp_path) == ["holiday [2024]/x/b.jpg"]
    assert names(str(tmp_path / "holiday [2]" / "*.jpg"), tmp_path) == ["holiday 2/c.jpg"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file names as bytes")
def test_file_names_given_as_bytes_by_the_system_are_paths(tmp_path: Path) -> None:
    make(tmp_path, "folder/é.jpg")
    (entry,) = os.scandir(os.fsencode(tmp_path))
    assert names(entry, tmp_path) == ["folder/é.jpg"]


@settings(deadline=None)
@given(st.text(max_size=30))
@example("*\0")
@example("[\0]/*")
@example("**/" * 50)
def test_any_text_is_an_image_or_a_pattern_without_a_match(text: str) -> None:
    place = "no such folder/" + text
    if is_single(place):
        assert list(expand(place)) == [place]
    else:
        with pytest.raises(InputError, match="There are no images in "):
            list(expand(place))


@pytest.mark.parametrize(
    ("images", "count"),
    [
        ("cat.jpg", 1),
        (Path("cat.jpg"), 1),
        ("*.jpg", float("inf")),
        (PIXELS, 1),
        (np.stack([PIXELS] * 3), 3),
        (["a.jpg", Path("b.jpg"), b"bytes", PIXELS], 4),
        (("a.jpg", "b.jpg"), 2),
        ([], 0),
        ([io.BytesIO(b"x"), io.BytesIO(b"y")], 0),  # reading changes them
        (["a.jpg", io.BytesIO(b"y")], 0),
        ([Image.new("RGB", (2, 2))], 0),
        (iter(["a.jpg"]), 0),  # may make each when it is asked for
        (b"bytes", 0),
    ],
    ids=range(13),
)
def test_images_at_hand_are_counted(images: Any, count: float) -> None:
    assert count_at_hand(images) == count

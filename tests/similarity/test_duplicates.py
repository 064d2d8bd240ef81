"""Copies are found, different pictures are not, and the report is one page of text and thumbnails."""

from __future__ import annotations

import html.parser
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import ghostzoo
from ghostzoo.classifier import Classifier
from ghostzoo.errors import InputError, OptionError
from ghostzoo.fitting.findings import find_copies
from ghostzoo.fitting.pictures import Pictures
from ghostzoo.similarity import duplicates, report
from ghostzoo.similarity.duplicates import find_groups
from tests.similarity.conftest import SAMPLES


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "cache"))


def add_copies(folder: Path) -> None:
    for name in ("cat", "coffee", "rocket"):
        picture = cv2.imread(str(SAMPLES / f"{name}.jpg"))
        high, wide = picture.shape[:2]
        half = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        crop = picture[high // 40 : high - high // 40, wide // 40 : wide - wide // 40]
        for kind, copy in (("half", half), ("crop", crop)):
            cv2.imwrite(str(folder / f"{name}-{kind}.jpg"), copy)
        cv2.imwrite(str(folder / f"{name}-poor.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 40])


def test_copies_are_found_and_nothing_else(classifier: Classifier, photos: Path) -> None:
    add_copies(photos)
    shutil.copy(photos / "red" / "0.png", photos / "blue" / "same.png")
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    found = ghostzoo.find_duplicates(classifier, photos)
    assert found.pictures == 25
    assert {frozenset(group) for group in found.groups} == {
        frozenset({"red/0.png", "blue/same.png"}),
        *(
            frozenset({f"{name}.jpg", *(f"{name}-{kind}.jpg" for kind in ("half", "crop", "poor"))})
            for name in ("cat", "coffee", "rocket")
        ),
    }
    for group in found.groups:
        sizes = [(photos / name).stat().st_size for name in group]
        assert sizes == sorted(sizes, reverse=True)
    assert {path: path.read_bytes() for path in photos.rglob("*.*")} == before
    strict = ghostzoo.find_duplicates(classifier, photos, threshold=1.0)  # what only the embeddings tell is left out
    assert sum(map(len, strict.groups)) < sum(map(len, found.groups))


def test_pictures_of_one_colour_are_no_copies_of_another_colour(classifier: Classifier, tmp_path: Path) -> None:
    for name, value in (("black", 0), ("grey", 128), ("white", 255), ("also-white", 254)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((80, 90, 3), value, np.uint8))
    assert ghostzoo.find_duplicates(classifier, tmp_path).groups == (("also-white.png", "white.png"),)


def test_a_second_run_computes_nothing_and_an_index_serves(
    classifier: Classifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ghostzoo.find_duplicates(classifier, photos)
    ghostzoo.build_index(classifier, photos, tmp_path / "photos.index")
    monkeypatch.setattr(Classifier, "read_image", lambda *_: pytest.fail("a picture was decoded again"))
    assert ghostzoo.find_duplicates(classifier, photos) == first
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "other-cache"))
    assert ghostzoo.find_duplicates(classifier, photos, index=tmp_path / "photos.index") == first


def test_a_damaged_cache_is_made_anew(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    first = ghostzoo.find_duplicates(classifier, photos)
    [kept] = (tmp_path / "cache" / "embeddings").iterdir()
    for damage in (kept.read_bytes()[:-100], bytes(kept.stat().st_size), b""):
        kept.write_bytes(damage)
        assert ghostzoo.find_duplicates(classifier, photos) == first


def test_where_no_cache_can_be_kept_it_works_all_the_same(
    classifier: Classifier, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHOSTZOO_CACHE", f"{os.devnull}/none")
    assert ghostzoo.find_duplicates(classifier, photos).pictures == 15


def test_groups_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a plain search of all pairs, over the borders of the tiles."""
    monkeypatch.setattr(duplicates, "_TILE", 16)
    monkeypatch.setattr(duplicates, "_PAIRS", 5)
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 256, (12, 32), np.uint8)[rng.integers(0, 12, 100)]
    looks ^= np.packbits(rng.random((100, 256)) < 0.04, axis=1)
    embeddings = rng.normal(size=(4, 1280)).astype(np.float32)[rng.integers(0, 4, 100)]
    embeddings += rng.normal(size=(100, 1280)).astype(np.float32) * 0.2
    digests = np.arange(100, dtype=np.uint8)[:, np.newaxis].repeat(16, axis=1)
    for values in (digests, looks, embeddings):
        values[70] = values[3]
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ unit.T
    bits = np.bitwise_count(looks[:, np.newaxis] ^ looks).sum(axis=2, dtype=int)
    alike = ((bits <= 24) & (cosines >= 0.5)) | ((bits <= 64) & (cosines >= 0.9))
    reached = alike.copy()
    for _ in range(7):
        reached = reached.astype(int) @ reached > 0
    expected = {tuple(np.flatnonzero(row).tolist()) for row in reached if row.sum() > 1}
    assert {tuple(group) for group in find_groups(digests, looks, embeddings)} == expected
    assert 3 < len(expected) < 60


def test_many_copies_of_one_picture_cost_little() -> None:
    count = 3000
    looks = np.zeros((count, 32), np.uint8)
    digests = np.arange(count, dtype="<u8").repeat(2).view(np.uint8).reshape(count, 16)
    embeddings = np.ones((count, 1280), np.float32)
    assert find_groups(digests, looks, embeddings) == [list(range(count))]


def test_fitting_finds_copies_by_the_same_rule() -> None:
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 256, (4, 32), np.uint8)
    looks[2] = looks[0]
    looks[2, 0] ^= 0xFF
    names = ("a", "b", "c", "d")
    pictures = Pictures(
        names, np.array([0, 0, 1, 1]), np.ones((4, 1280), np.float16), np.zeros((4, 16), np.uint8), looks
    )
    copies, groups = find_copies(pictures, ["first", "second"])
    assert [(copy.first, copy.second, copy.across) for copy in copies] == [("a", "c", True)]
    assert groups.tolist() == [0, 1, 0, 3]


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)


def test_the_report_holds_text_and_thumbnails_only(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    for name in ("<script>alert(1)<_script>.png", '"><img onerror=x src=y>.png', os.fsdecode(b"\xff&amp;.png")):
        shutil.copy(photos / "red" / "0.png", photos / name)
    found = ghostzoo.find_duplicates(classifier, photos)
    (photos / '"><img onerror=x src=y>.png').unlink()
    found.write_report(tmp_path / "report.html", classifier)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "&lt;script&gt;alert(1)" in text
    assert "cannot be read any more" in text


def test_the_report_is_bounded(
    classifier: Classifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MAX_THUMBNAILS", 10)
    monkeypatch.setattr(report, "_MAX_OF_GROUP", 4)
    groups = [["cat.jpg"] * count for count in (2, 9, 3, 5)]
    report.write_report(tmp_path / "report.html", photos, 100, groups, classifier.read_image)
    text = (tmp_path / "report.html").read_text()
    assert text.count("<img") == 9
    assert "and 5 more<" in text
    assert "and 1 more groups" in text


def test_misuse_is_one_sentence(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    for threshold in (1.5, -1, True, float("nan")):
        with pytest.raises(OptionError, match="threshold must be a cosine"):
            ghostzoo.find_duplicates(classifier, photos, threshold=threshold)
    (tmp_path / "one").mkdir()
    shutil.copy(photos / "cat.jpg", tmp_path / "one" / "cat.jpg")
    with pytest.raises(InputError, match="has one picture that can be read, and there is nothing to compare it with"):
        ghostzoo.find_duplicates(classifier, tmp_path / "one")

"""Class names in the pictures of a report: in any script that there are fonts for, else indices; never boxes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib, which draws the report, is not installed here")

from ghostzoo._utils.plots import lettering, shortened
from ghostzoo.evaluation.datasets import Sample
from ghostzoo.evaluation.evaluate import Evaluation, Mistake, Proportion
from ghostzoo.evaluation.report import confusion_picture, mistakes_picture, write_report
from ghostzoo.labels import ClassLabel
from tests.fixtures.fonts import only_fonts, write_font

FLOWERS = ("雏菊", "玫瑰", "tulip")


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    """matplotlib warns of every letter that it draws as a box."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def font(tmp_path: Path) -> Path:
    return write_font(tmp_path / "flowers.ttf", "Flowers", "雏菊玫瑰")


def evaluation(folder: Path, *names: str) -> Evaluation:
    picture = folder / "a.png"
    picture.write_bytes(cv2.imencode(".png", np.full((20, 30, 3), 100, np.uint8))[1].tobytes())
    count = len(names)
    sample = Sample("a.png", 0, picture)
    mistakes = tuple(Mistake(0.9, "a.png", index, (index + 1) % count, sample) for index in range(count))
    confusion = np.arange(count * count).reshape(count, count) + 1
    top1 = Proportion(int(confusion.trace()), int(confusion.sum()))
    labels = tuple(map(ClassLabel, names))
    return Evaluation("m", {"engine": "e"}, labels, top1, top1, confusion, mistakes, (), 1.0)


def pixels(picture: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    read = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert read is not None
    return np.asarray(read, np.uint8)


@pytest.mark.parametrize("draw", [confusion_picture, mistakes_picture])
def test_names_without_a_font_are_indices(draw: object, tmp_path: Path, font: Path) -> None:
    assert callable(draw)
    with only_fonts():
        without = draw(evaluation(tmp_path, *FLOWERS))
        assert without == draw(evaluation(tmp_path, "class 0", "class 1", "tulip"))
    with only_fonts(font):
        found = draw(evaluation(tmp_path, *FLOWERS))
        assert (pixels(found).shape != pixels(without).shape) or (pixels(found) != pixels(without)).any()
        assert found != draw(evaluation(tmp_path, "玫瑰", "雏菊", "tulip"))


def test_what_is_drawn_by_index_is_said_once(tmp_path: Path, font: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), only_fonts():
        write_report(evaluation(tmp_path, *FLOWERS), tmp_path / "report")
        assert [message.startswith("2 class names are drawn as indices") for message in caplog.messages] == [True]
    caplog.clear()
    with caplog.at_level(logging.WARNING), only_fonts(font):
        write_report(evaluation(tmp_path, *FLOWERS), tmp_path / "report")
        assert not caplog.messages


def test_fonts_are_taken_for_the_letters_that_are_missing(tmp_path: Path, font: Path) -> None:
    other = write_font(tmp_path / "other.ttf", "Other", "菊猫")
    with only_fonts(font, other):
        plain = lettering(["tulip", "Ö", "وردة", "קטיפה"])
        assert "Flowers" not in plain.style["fontfamily"]
        assert all(map(plain.can_write, ["tulip", "Ö", "وردة", "קטיפה"]))
        assert not {"Other", "Flowers"} - set(lettering(["雏菊", "猫"]).style["fontfamily"])
        some = lettering(["雏菊", "雏狗", "tulip"])
        assert "Other" not in some.style["fontfamily"]
        assert [some.can_write(name) for name in ("雏菊", "雏狗", "tulip")] == [True, False, True]


@pytest.mark.parametrize(
    "name", ["$x^2$", "$", r"\alpha $\frac{1}$", "a_b^c", "", " ", "x\ny", "\x05", "a" * 5000, "🌷"]
)
def test_any_name_is_drawn_without_a_warning(name: str, tmp_path: Path) -> None:
    with only_fonts():
        for draw in (confusion_picture, mistakes_picture):
            assert pixels(draw(evaluation(tmp_path, name, "tulip"))).std() > 1


def test_names_with_dollars_are_no_formulas(tmp_path: Path) -> None:
    assert confusion_picture(evaluation(tmp_path, "$a$", "b")) != confusion_picture(evaluation(tmp_path, "a", "b"))


def test_a_damaged_font_is_passed_over(tmp_path: Path, font: Path) -> None:
    damaged = tmp_path / "damaged.ttf"
    damaged.write_bytes(font.read_bytes()[:200])
    with only_fonts(damaged, tmp_path / "missing.ttf", font):
        assert lettering(FLOWERS).can_write("雏菊")


def test_long_names_are_cut_by_their_width() -> None:
    assert shortened("tulip", 5) == "tulip"
    assert shortened("tulips", 5) == "tuli…"
    assert shortened("雏菊玫瑰", 8) == "雏菊玫瑰"
    assert shortened("雏菊玫瑰花", 8) == "雏菊玫…"
    assert shortened("", 5) == ""


def test_a_picture_of_mistakes_shows_the_images(tmp_path: Path) -> None:
    drawn = pixels(mistakes_picture(evaluation(tmp_path, *(f"class-{index}" for index in range(8)))))
    assert drawn.shape == (2 * 194, 6 * 160, 3)
    for row in range(2):
        for column in range(6):
            centre = drawn[row * 194 + 80, column * 160 + 80]
            assert (centre == (100 if row * 6 + column < 8 else 255)).all()

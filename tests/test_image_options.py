"""``background``, ``lenient``, ``draft`` and the limits, from ``load`` and from the command line."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import ImageError, OptionError
from ghostzoo.images.options import ImageLimits
from tests.fixtures.pictures import encoded, picture
from tests.test_cli import run

JPEG = encoded(picture(300, 200), "JPEG", quality=95)


def transparent() -> bytes:
    image = picture(80, 60)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encoded(image, "PNG")


def scores(result: list[ghostzoo.Prediction]) -> list[tuple[int, float]]:
    return [(each.index, each.score) for each in result]


def test_a_background_is_what_the_network_sees(tiny_bundle: Bundle) -> None:
    over = Image.new("RGBA", (80, 60), (10, 20, 200))
    shown = Image.open(io.BytesIO(transparent()))
    flat = np.asarray(Image.alpha_composite(over, shown.convert("RGBA")).convert("RGB"))
    with ghostzoo.load(tiny_bundle.path, threads=1, background=(10, 20, 200)) as clf:
        assert np.abs(clf.read_image(transparent()).astype(int) - flat).max() <= 1
        composed = clf(transparent())
    with ghostzoo.load(tiny_bundle.path, threads=1) as clf:
        assert scores(clf(transparent())) == scores(clf(shown.convert("RGBA")))
        assert scores(composed) != scores(clf(transparent()))
    with pytest.raises(OptionError, match="background must be white, black, grey"):
        ghostzoo.load(tiny_bundle.path, background="see-through")


def test_a_damaged_image_is_marked_and_the_others_are_not(tiny_bundle: Bundle) -> None:
    images: list[Any] = [JPEG, JPEG[:-2], JPEG[:-500], np.zeros((50, 50, 3), np.uint8)]
    with ghostzoo.load(tiny_bundle.path, threads=1, lenient=True) as clf:
        marks = [{each.damaged for each in result} for result in clf.predict(images, batch_size=3)]
        assert marks == [{False}, {True}, {True}, {False}]
        assert clf(JPEG[:-2])[0].to_dict()["damaged"] is True
        assert "damaged" not in clf(JPEG)[0].to_dict()
        assert clf.logits(images).shape == (4, tiny_bundle.num_classes)
    with ghostzoo.load(tiny_bundle.path, threads=1) as clf, pytest.raises(ImageError, match="truncated"):
        clf(JPEG[:-2])


def test_a_draft_is_never_below_twice_the_size_of_the_network(tiny_bundle: Bundle) -> None:
    side = 2 * tiny_bundle.preprocessing.resize_short
    with ghostzoo.load(tiny_bundle.path, threads=1, draft=True) as clf:
        for factor, fraction in ((1, 1), (2, 2), (4, 4), (5, 4), (8, 8), (16, 8)):
            data = encoded(picture(2 * factor * side, factor * side), "JPEG")
            assert min(clf.read_image(data).shape[:2]) == factor * side // fraction
        assert len(clf(data)) == 5


def test_the_options_go_along_into_another_process(tiny_bundle: Bundle) -> None:
    with ghostzoo.load(tiny_bundle.path, threads=1, background="white", lenient=True, draft=True) as clf:
        clf.self_check()
        with pickle.loads(pickle.dumps(clf)) as other:
            assert other.read_image(transparent()).tolist() == clf.read_image(transparent()).tolist()
            assert other(JPEG[:-2])[0].damaged


def test_predict_has_the_options(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for name, data in {"a.jpg": JPEG, "cut.jpg": JPEG[:-2], "b.png": transparent()}.items():
        (tmp_path / name).write_bytes(data)
    common = ("predict", tmp_path, "--model", tiny_bundle.path, "--json", "--threads", 1)
    strict = run(*common)
    assert strict.returncode == 1
    assert "it is truncated or damaged; get the file again, or read it with --lenient" in strict.stderr
    result = run(*common, "--lenient", "--background", "#0a14c8", "--draft")
    assert result.returncode == 0, result.stderr
    assert result.stderr == f"Damaged, read as far as possible: {tmp_path / 'cut.jpg'}\n"
    rows = {Path(row["image"]).name: row["predictions"] for row in map(json.loads, result.stdout.splitlines())}
    assert {name: [each.get("damaged") for each in row] == [True] * 5 for name, row in rows.items()} == {
        "a.jpg": False,
        "b.png": False,
        "cut.jpg": True,
    }
    wrong = run(*common, "--background", "nothing")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("Error: background must be white, black, grey")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-pixels", 1000), ("--max-bytes", 500), ("--max-aspect-ratio", 1.1), ("--max-scans", 0.5)],
)
def test_predict_names_the_limits_by_its_options(
    tiny_bundle: Bundle, tmp_path: Path, option: str, value: float
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(picture(300, 200), "JPEG", progressive=True))
    common = ("predict", path, "--model", tiny_bundle.path, "--threads", 1)
    limits = (option, value) if option != "--max-scans" else (option, value, "--max-pixels", 60_000)
    result = run(*common, *limits)
    assert result.returncode == 1
    assert option in result.stderr.splitlines()[0]
    assert run(*common).returncode == 0


def test_eval_has_the_options_too(tiny_bundle: Bundle, tmp_path: Path) -> None:
    names = []
    for index in range(2):
        for name, data in {"a.jpg": JPEG, "cut.jpg": JPEG[:-2]}.items():
            names.append(f"{index}-{name}")
            (tmp_path / names[-1]).write_bytes(data)
    samples = tmp_path / "list.txt"
    samples.write_text("".join(f"{name} {name[0]}\n" for name in names))
    common = ("eval", "--model", tiny_bundle.path, "--data", samples, "--threads", 1, "--json")
    result = run(*common, "--lenient", "--background", "white", "--draft", "--out", tmp_path / "report")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["damaged"] == ["0-cut.jpg", "1-cut.jpg"]
    assert result.stderr.count("Damaged, read as far as possible: ") == 2
    small = run(*common, "--max-pixels", 59_999)
    assert small.returncode == 1
    assert "--max-pixels" in small.stderr


def test_limits_are_above_zero_and_redirects_may_be_none() -> None:
    assert ImageLimits(max_redirects=0).max_redirects == 0
    for name in ("max_pixels", "max_bytes", "max_scans", "url_timeout"):
        with pytest.raises(OptionError, match=f"{name} must be above zero"):
            ImageLimits(**{name: 0})


def test_only_a_jpeg_is_said_to_be_read_leniently(tmp_path: Path, tiny_bundle: Bundle) -> None:
    for form, advised in (("JPEG", True), ("PNG", False)):
        path = tmp_path / form
        path.write_bytes(encoded(picture(300, 200), form)[:-300])
        result = run("predict", path, "--model", tiny_bundle.path, "--engine", "onnxruntime")
        assert ("or read it with --lenient" in result.stderr) == advised

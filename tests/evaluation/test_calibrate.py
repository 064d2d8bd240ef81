from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import ghostzoo
from ghostzoo import OptionError
from ghostzoo.bundle.folder import Bundle
from ghostzoo.calibration import Calibration, energy
from ghostzoo.cli import main
from ghostzoo.errors import InputError
from ghostzoo.evaluation.calibrate import Bins, calibrate, fit_temperature, reliability_picture
from ghostzoo.labels import ClassLabel
from ghostzoo.predictions import Choice, Postprocessing, softmax


def drawn(count: int, seed: int, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of ten classes, and classes drawn with the probabilities that they give at ``temperature``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (count, 10)).astype(np.float32)
    truth = np.array([rng.choice(10, p=row / row.sum()) for row in softmax(logits / temperature).astype(float)])
    return logits, truth


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_drew_the_classes_is_found(temperature: float) -> None:
    logits, truth = drawn(20_000, 0, temperature)
    assert fit_temperature(logits, truth) == pytest.approx(temperature, rel=0.05)


def test_the_calibration_error_falls_on_other_images() -> None:
    report = calibrate(*drawn(10_000, 1, temperature=2.5))
    assert report.before.error > 0.15
    assert report.after.error < 0.02
    assert report.fitted_on == report.calibration.images == 5000


def test_the_error_is_that_counted_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.92, 0.08], [0.45, 0.55]], np.float32)
    bins = Bins.of(probabilities, np.array([0, 1, 1]))
    assert bins.error == pytest.approx((2 * (0.91 - 0.5) + (1 - 0.55)) / 3)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95, 0.99])
def test_sets_hold_the_class_of_new_images_as_often_as_asked(coverage: float) -> None:
    logits, truth = drawn(8000, 2, temperature=2.0)
    calibration = calibrate(*(part[:4000] for part in (logits, truth))).calibration
    model = Postprocessing([ClassLabel(str(index)) for index in range(10)], calibration=calibration)
    sets = model.predictions(logits[4000:], Choice(coverage=coverage))
    covered = np.mean([any(p.index == c for p in found) for found, c in zip(sets, truth[4000:], strict=True)])
    assert coverage - 0.03 < covered < coverage + 0.03
    assert min(map(len, sets)) >= 1


def test_of_familiar_images_the_share_asked_for_is_unknown() -> None:
    logits, truth = drawn(4000, 3)
    model = Postprocessing(
        [ClassLabel(str(index)) for index in range(10)], calibration=calibrate(logits, truth).calibration
    )
    new, _ = drawn(4000, 4)
    unknown = [not found for found in model.predictions(new, Choice(unknown_below=0.1))]
    assert np.mean(unknown) == pytest.approx(0.1, abs=0.03)
    assert energy(new[unknown]).max() < energy(new[~np.array(unknown)]).min()


def test_too_few_images_are_refused() -> None:
    with pytest.raises(InputError, match="99 images are too few to calibrate on; take 100 or more"):
        calibrate(*drawn(99, 0))
    calibration = calibrate(*drawn(100, 0)).calibration
    with pytest.raises(OptionError, match=r"coverage=0.99 needs more images than the 50 .* ask for 0.98 at most"):
        calibration.min_score(0.99)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coverage": None}, "its coverage is no object"),
        ({"coverage": {"0.0": 0.5}}, "a level that is not between 0 and 1"),
        ({"coverage": {"1": 0.5}}, "a level that is not between 0 and 1"),
        ({"coverage": {"0.9": 1.5}}, "1.5' is no number from 0 to 1"),
        ({"energies": [1.0]}, "its energies are no list of numbers"),
        ({"energies": [1.0, True]}, "True' is no number"),
        ({"energies": [1.0, float("nan")]}, "nan' is no number"),
        ({"images": 0}, "its number of images is not positive"),
        ({"images": True}, "its number of images is not positive"),
        ({"temperature": 0}, "0' is no number from"),
    ],
)
def test_what_a_file_says_of_a_calibration_is_checked(change: dict[str, Any], message: str) -> None:
    content = Calibration(2.0, 1, {0.9: 0.5}, (0.0, 1.0)).to_dict()
    assert Calibration.from_dict(content).coverage == {0.9: 0.5}
    with pytest.raises(ValueError, match=message):
        Calibration.from_dict(content | change)


def test_a_diagram_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure", reason="the diagram needs the extra 'plots'").Figure
    drawn_on, save = [], figure.savefig
    monkeypatch.setattr(
        figure, "savefig", lambda self, *args, **named: drawn_on.append(self) or save(self, *args, **named)
    )
    report = calibrate(*drawn(300, 0))
    picture = cv2.imdecode(np.frombuffer(reliability_picture(report, "a $model"), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.std() > 10
    for axes in drawn_on[0].axes:
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1), (0, 1))
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("confidence", "accuracy")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(120):
        folder = tmp_path / "data" / f"class-{index % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(rng.integers(0, 256, (5, 5, 3), np.uint8), (70, 80)))
    return tmp_path / "data"


def test_a_calibrated_bundle_uses_its_temperature(tiny_bundle: Bundle, data: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "tiny"
    shutil.copytree(tiny_bundle.path, bundle)
    pictures = sorted(data.rglob("*.png"))
    with ghostzoo.load(bundle, threads=1) as plain:
        before = plain.probabilities(pictures)
        with pytest.raises(OptionError, match="coverage needs a calibrated model; run 'ghostzoo eval --calibrate'"):
            plain(pictures[0], coverage=0.9)
    done = CliRunner().invoke(main, ["eval", "--model", str(bundle), "--data", str(data), "--calibrate"])
    assert done.exit_code == 0, done.output
    assert "expected calibration error" in done.output
    with ghostzoo.load(bundle, threads=1) as clf:
        calibration = clf.bundle.manifest.calibration
        assert calibration is not None
        assert calibration.temperature != 1
        assert json.loads((bundle / "ghostzoo.json").read_text())["format_version"] == 3
        np.testing.assert_array_equal(clf.probabilities(pictures, calibrated=False), before)
        expected = softmax(clf.logits(pictures) / np.float32(calibration.temperature))
        np.testing.assert_array_equal(clf.probabilities(pictures), expected)
        assert clf(pictures[0], 1)[0].score == pytest.approx(float(expected[0].max()))
        assert clf(pictures[0], 1, calibrated=False)[0].score == pytest.approx(float(before[0].max()))
        assert len(next(clf.predict(pictures[:1], coverage=0.9))) >= 1
        assert ((clf.known(pictures) >= 0) & (clf.known(pictures) <= 1)).all()
        with pytest.raises(OptionError, match="leave out top_k"):
            clf(pictures[0], 3, coverage=0.9)


def test_what_cannot_be_calibrated_is_said(multi_label_bundle: Bundle, data: Path, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["eval", "--data", str(data), *arguments])
        assert done.exit_code != 0
        return " ".join(f"{done.output} {done.exception}".split())

    assert "stays as it was published" in said("--calibrate")
    assert "give both" in said("--calibrated-copy", str(tmp_path / "copy"))
    assert "has no temperature" in said("--model", str(multi_label_bundle.path), "--calibrate")

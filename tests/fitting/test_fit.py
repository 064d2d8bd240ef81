"""Folders of pictures become a bundle like any other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import ghostzoo
from ghostzoo.bundle.edit import add_files
from ghostzoo.bundle.folder import Bundle
from ghostzoo.classifier import Classifier
from ghostzoo.cli import main
from ghostzoo.errors import BundleError, GhostZooError, InputError, OptionError
from ghostzoo.fitting.findings import Copy, find_doubts, find_warnings
from ghostzoo.fitting.pictures import PICTURES_FILE, Pictures
from ghostzoo.parity import EXACT_TOLERANCE, compare_logits
from tests.fitting.conftest import MakeFolder, write_picture
from tests.fixtures.engines import require_engine


def test_a_fitted_bundle_recognises_new_pictures(tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder("data", red=range(20), green=range(20), blue=range(20))
    done = ghostzoo.fit(data, tmp_path / "mine", model=tiny_bundle.path)
    assert done.classes == ("blue", "green", "red")
    assert done.accuracy.total == done.confusion.sum() == 60
    assert done.accuracy.value > 0.85
    new = make_folder("new", red=range(50, 60), green=range(50, 60), blue=range(50, 60))
    pictures = sorted(new.rglob("*.png"))
    with ghostzoo.load(tmp_path / "mine", threads=1) as classifier:
        assert classifier.self_check().within(EXACT_TOLERANCE)
        right = sum(classifier(picture)[0].label == picture.parent.name for picture in pictures)
        assert right / len(pictures) > 0.85
        picture = pictures[0]
        assert classifier.explain(picture, "red", "blue").engine == "onnxruntime"
    assert Bundle.open(tmp_path / "mine").manifest.weights["fitted_on"]["model"] == "tiny"
    card = (tmp_path / "mine" / "README.md").read_text()
    assert f"{done.accuracy.value:.4f}" in card
    said = [float(end) for end in re.findall(r"95 % interval ([\d.]+) to ([\d.]+)\)", card)[0]]
    assert said == [round(end, 4) for end in done.accuracy.interval]
    facts = done.bundle.manifest.validation["fit"]
    assert said == facts["interval_of_95_percent"]
    assert facts["pictures_of_classes"] == {"blue": 20, "green": 20, "red": 20}
    assert "embeddings, names and hashes" in card


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "native"])
def test_every_onnx_engine_runs_it(tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path, engine: str) -> None:
    require_engine(engine)
    data = make_folder("data", red=range(3), blue=range(3))
    bundle = ghostzoo.fit(data, tmp_path / "mine", model=tiny_bundle.path, engine=engine).bundle
    with ghostzoo.load(bundle.path, engine=engine, threads=1) as classifier:
        assert classifier.self_check().within(EXACT_TOLERANCE)


def test_adding_gives_the_same_as_all_at_once(tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path) -> None:
    first = make_folder("first", red=range(6), green=range(4))
    more = make_folder("more", red=range(6, 9), white=range(5))
    both = tmp_path / "both"
    shutil.copytree(first, both)
    shutil.copytree(more, both, dirs_exist_ok=True)
    whole = ghostzoo.fit(both, tmp_path / "whole", model=tiny_bundle.path, name="same")
    ghostzoo.fit(first, tmp_path / "mine", model=tiny_bundle.path)
    shutil.rmtree(first)
    grown = ghostzoo.fit(more, tmp_path / "grown", add_to=tmp_path / "mine", name="same")
    assert grown.classes == whole.classes == ("green", "red", "white")
    assert grown.accuracy == whole.accuracy
    golden = whole.bundle.golden()
    with ghostzoo.load(tmp_path / "grown", threads=1) as classifier:  # batches differ, and embeddings in their last bit
        assert compare_logits(golden.logits, classifier.engine.run(golden.pixel_values)).relative < 2e-3
    again = ghostzoo.fit(more, tmp_path / "grown", add_to=tmp_path / "grown", overwrite=True, name="same")
    assert again.bundle.model_hash() == grown.bundle.model_hash()


def test_a_fitted_bundle_names_the_model_that_was_trained(
    tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path
) -> None:
    ghostzoo.fit(make_folder("one", red=range(6), green=range(6)), tmp_path / "first", model=tiny_bundle.path)
    ghostzoo.fit(make_folder("two", red=range(6), blue=range(6)), tmp_path / "second", model=tmp_path / "first")
    found = Bundle.open(tmp_path / "second").manifest.weights["fitted_on"]
    assert found == Bundle.open(tmp_path / "first").manifest.weights["fitted_on"]


def test_one_class_grows_alone(tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path) -> None:
    ghostzoo.fit(make_folder("data", red=range(4), blue=range(4)), tmp_path / "mine", model=tiny_bundle.path)
    done = ghostzoo.fit(make_folder("more", red=range(10, 13)), tmp_path / "more-mine", add_to=tmp_path / "mine")
    assert done.confusion.sum(axis=1).tolist() == [4, 7]


def test_what_was_made_of_the_earlier_classes_is_left_out(
    tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path
) -> None:
    ghostzoo.fit(make_folder("data", red=range(4), blue=range(4)), tmp_path / "mine", model=tiny_bundle.path)
    files = {"mnn/model.mnn": b"of two classes"}
    add_files(tmp_path / "mine", files, created_by={}, section="formats", facts={})
    done = ghostzoo.fit(make_folder("more", green=range(4)), tmp_path / "more-mine", add_to=tmp_path / "mine")
    assert "mnn/model.mnn" not in done.bundle.manifest.files
    assert "The files of mine for mnn are of its earlier classes" in done.warnings[0]


def test_features_of_the_bundled_model_are_no_surprise(make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder("data", red=range(2), blue=range(2))
    assert "learnt ten classes from pictures of 32 x 32 pixels" in ghostzoo.fit(data, tmp_path / "mine").warnings[0]


def test_pictures_are_decoded_once(
    tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_folder("data", red=range(4), blue=range(4))
    seen: list[object] = []
    read = Classifier.read_image
    monkeypatch.setattr(Classifier, "read_image", lambda self, image: seen.append(image) or read(self, image))
    first = ghostzoo.fit(data, tmp_path / "first", model=tiny_bundle.path, name="same")
    assert len(seen) == 8
    write_picture(data / "red" / "new.png", "red", 99)
    ghostzoo.fit(data, tmp_path / "second", model=tiny_bundle.path)
    assert len(seen) == 9
    (data / "red" / "new.png").unlink()
    third = ghostzoo.fit(data, tmp_path / "third", model=tiny_bundle.path, name="same")
    assert len(seen) == 9
    assert first.bundle.model_hash() == third.bundle.model_hash()


def test_copies_and_wrong_folders_are_named(tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder("data", red=range(12), green=range(12), blue=range(12))
    shutil.copy(data / "red" / "003.png", data / "green" / "copied.png")
    picture = cv2.imread(str(data / "blue" / "004.png"))
    cv2.imwrite(str(data / "blue" / "smaller.jpg"), cv2.resize(picture, (60, 50), interpolation=cv2.INTER_AREA))
    write_picture(data / "red" / "lost.png", "blue", 70)
    done = ghostzoo.fit(data, tmp_path / "mine", model=tiny_bundle.path)
    assert [(copy.across, {copy.first, copy.second}) for copy in done.copies] == [
        (True, {"red/003.png", "green/copied.png"}),
        (False, {"blue/004.png", "blue/smaller.jpg"}),
    ]
    assert "red/lost.png" in {doubt.name for doubt in done.suspects}
    text = " ".join(done.warnings)
    for words in ("fewer than 20 pictures", "in two classes; remove one", "may be in the wrong folder", "red/lost.png"):
        assert words in text


def test_warnings_count_pictures_and_name_five_classes() -> None:
    few, some, unbalanced = find_warnings([4] * 6 + [5, 19, 20, 40], "abcdefghij", (), ())
    assert few.startswith("6 classes have fewer than 5 pictures: a (4), b (4), c (4), d (4), e (4) and 1 more; ")
    assert some.startswith("2 classes have fewer than 20 pictures: g (5), h (19); ")
    assert unbalanced.startswith("j has 40 pictures and a has 4; ")
    assert len(find_warnings([4, 39], "ab", (), ())) == 1
    copies = (Copy("a/1", "b/1", ("a", "b")), Copy("a/2", "a/3", ("a", "a")))
    across, within = find_warnings([20, 20], "ab", copies, ())
    assert across == "1 pair of pictures is nearly the same in two classes; remove one of each: a/1 and b/1."
    assert within.startswith("1 pair of pictures is nearly the same in one class, which adds little: a/2 and a/3. ")


def test_doubts_come_in_their_order() -> None:
    pictures = Pictures(("a", "b", "c", "d"), np.array([0, 0, 0, 1]), *(np.zeros((4, 1), "u1") for _ in range(3)))
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.1, 0.9], [0.95, 0.05]], np.float32)
    suspects, unsure = find_doubts(pictures, probabilities, ["x", "y"])
    assert [(doubt.name, doubt.label, doubt.predicted) for doubt in suspects] == [("d", "y", "x"), ("c", "x", "y")]
    assert [doubt.name for doubt in unsure] == ["b", "a"]


def test_without_keeping_nothing_of_the_pictures_is_left(
    tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path
) -> None:
    data = make_folder("data", red=range(3), blue=range(3))
    done = ghostzoo.fit(data, tmp_path / "mine", model=tiny_bundle.path, keep=False)
    assert done.kept_bytes == 0
    assert PICTURES_FILE not in done.bundle.manifest.files
    with pytest.raises(BundleError, match="nothing can be added to it"):
        ghostzoo.fit(data, tmp_path / "more", add_to=tmp_path / "mine")


def _one_class(make: MakeFolder) -> Path:
    return make("data", red=range(4))


def _one_picture(make: MakeFolder) -> Path:
    return make("data", red=range(4), blue=range(1))


def _unreadable(make: MakeFolder) -> Path:
    folder = make("data", red=range(4), blue=range(2))
    (folder / "blue" / "001.png").write_bytes(b"no picture")
    return folder


def _empty_class(make: MakeFolder) -> Path:
    folder = make("data", red=range(4), blue=range(4))
    (folder / "green").mkdir()
    return folder


def _loose(make: MakeFolder) -> Path:
    folder = make("data", red=range(2), blue=range(2))
    shutil.copy(folder / "red" / "000.png", folder / "loose.png")
    return folder


def _copies(make: MakeFolder) -> Path:
    folder = make("data", red=range(3), blue=range(3))
    for path in folder.rglob("*.png"):
        write_picture(path, "red", 0)
    return folder


def _nothing(make: MakeFolder) -> Path:
    folder = make("data", red=range(1))
    shutil.rmtree(folder / "red")
    return folder


@pytest.mark.parametrize(
    ("make_data", "message"),
    [
        (_one_class, "nothing to tell it from; add a folder"),
        (_one_picture, r"too few are in blue \(1\)"),
        (_unreadable, r"too few are in blue \(1\); 1 could not be read, the first because blue/001.png"),
        (_empty_class, "hold no images: green"),
        (_loose, "loose.png"),
        (_copies, "are copies of one"),
        (_nothing, "holds no image files"),
    ],
)
def test_data_that_cannot_be_fitted_are_one_sentence(
    tiny_bundle: Bundle,
    make_folder: MakeFolder,
    tmp_path: Path,
    make_data: Callable[[MakeFolder], Path],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        ghostzoo.fit(make_data(make_folder), tmp_path / "mine", model=tiny_bundle.path)
    assert not (tmp_path / "mine").exists()


def test_options_that_contradict_each_other_are_refused(
    tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path
) -> None:
    data = make_folder("data", red=range(3), blue=range(3))
    for error, message, options in (
        (OptionError, "leave the model out", {"model": tiny_bundle.path, "add_to": tiny_bundle.path}),
        (BundleError, "holds no embeddings", {"add_to": tiny_bundle.path}),
        (OptionError, "float32", {"model": tiny_bundle.path, "precision": "int8"}),
        (OptionError, "the name of another model", {"name": "GhostNet_x0_5_cifar10"}),
        (BundleError, "cannot name a model", {"model": tiny_bundle.path, "name": "a/b"}),
    ):
        with pytest.raises(error, match=message):
            ghostzoo.fit(data, tmp_path / "mine", **options)
    with pytest.raises(BundleError, match="exists"):
        ghostzoo.fit(data, data, model=tiny_bundle.path)


@pytest.mark.parametrize("damage", ["cut", "pickle", "huge", "label"])
def test_damaged_embeddings_are_refused(
    tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path, damage: str
) -> None:
    bundle = ghostzoo.fit(
        make_folder("data", red=range(3), blue=range(3)), tmp_path / "mine", model=tiny_bundle.path
    ).bundle
    data = bundle.read(PICTURES_FILE)
    if damage == "cut":
        data = data[:-100]
    elif damage == "pickle":
        data = data.replace(b"'descr': '<i8'", b"'descr': '|O' ", 1)
    elif damage == "huge":
        data = data.replace(b"'shape': (6, 1280)", b"'shape': (9999999999999, 1280)", 1)
    else:
        data = data.replace(np.arange(2).repeat(3).astype("<i8").tobytes(), np.full(6, -1, "<i8").tobytes(), 1)
    assert data != bundle.read(PICTURES_FILE)
    with pytest.raises(BundleError, match="damaged"):
        Pictures.from_bytes(data)


def test_a_picture_is_kept_in_less_than_three_kilobytes() -> None:
    """Also where it lies in deep folders: of its name the end is kept."""
    names = tuple(f"{'folder/' * 500}{index}\n.png" for index in range(50))
    rng = np.random.default_rng(0)
    arrays = (
        rng.random((50, 1280), np.float32).astype(np.float16),
        *(rng.integers(0, 256, (50, width), np.uint8) for width in (16, 32)),
    )
    data = Pictures(names, np.arange(50) % 2, *arrays).to_bytes()
    assert len(data) < 50 * 3000
    read = Pictures.from_bytes(data)
    assert [name[-20:] for name in read.names] == [name[-20:].replace("\n", " ") for name in names]
    np.testing.assert_array_equal(read.embeddings, arrays[0])


def test_fitting_needs_no_onnx(tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder("data", red=range(3), blue=range(3))
    code = (
        f"import ghostzoo, sys; ghostzoo.fit({str(data)!r}, {str(tmp_path / 'mine')!r}, "
        f"model={str(tiny_bundle.path)!r}, engine='onnxruntime'); "
        "print({name for name in ('onnx', 'torch', 'paddle', 'matplotlib') if name in sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_the_command_reports_and_adds(tiny_bundle: Bundle, make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder("data", red=range(6), blue=range(6))
    out = tmp_path / "mine"
    result = CliRunner().invoke(main, ["fit", str(data), "--model", str(tiny_bundle.path), "--out", str(out)])
    assert result.exit_code == 0, result.output
    for words in ("taken for:", "95 % interval", "12 pictures of 2 classes", "Least sure of"):
        assert words in result.stdout
    assert "for a later --add" in result.stderr
    more = make_folder("more", green=range(6))
    (more / "green" / "bad.png").write_bytes(b"no picture")
    result = CliRunner().invoke(main, ["fit", str(more), "--add", str(out), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["pictures"] == [6, 6, 6]
    assert "green/bad.png" in result.stderr
    assert ghostzoo.Bundle.open(out).num_classes == 3
    assert "Give --out" in CliRunner().invoke(main, ["fit", str(data)]).stderr


def test_errors_of_fitting_are_ghostzoo_errors(tmp_path: Path) -> None:
    with pytest.raises(GhostZooError, match="There is nothing at"):
        ghostzoo.fit(tmp_path / "missing", tmp_path / "mine")

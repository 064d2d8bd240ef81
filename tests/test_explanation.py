"""Where in an image a class comes from: what the caller sees. The arithmetic on each engine is in ``engines``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import ghostzoo
from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import MODEL_FILES, Bundle
from ghostzoo.cli import main
from ghostzoo.engines import engine_class
from ghostzoo.engines.base import EngineOptions
from ghostzoo.errors import BundleError, EngineUnavailableError, OptionError
from ghostzoo.labels import imagenet_labels
from tests.fixtures.engines import require_engine

_PHOTO = Path(__file__).parents[1] / "examples" / "chelsea.png"


def test_the_picture_shows_what_was_seen_and_where_it_speaks() -> None:
    grey = np.full((120, 200, 3), 128, np.uint8)
    with ghostzoo.load(engine="onnxruntime", threads=1) as classifier:
        found = classifier.explain(grey, "cat", "dog")
        drawn = found.overlay(grey).astype(int)
    assert replace(found, constant=1.0, logit=-4.0).constant_share == 0.25
    assert replace(found, logit=0.0).constant_share == np.inf
    assert drawn.shape == grey.shape
    side = round(120 * 96 / 110)
    top, left = (120 - side) // 2, (200 - side) // 2
    seen = np.zeros((120, 200), bool)
    seen[top : top + side, left : left + side] = True
    assert (drawn[~seen] < 60).all()
    place = np.unravel_index(np.abs(found.map).argmax(), found.map.shape)
    y, x = (int(start + (each + 0.5) * side / 3) for start, each in zip((top, left), place, strict=True))
    red, _, blue = drawn[y, x]
    assert red > blue + 40 if found.map[place] > 0 else blue > red + 40
    white, black = (found.overlay(np.full(grey.shape, value, np.uint8)).astype(int) for value in (255, 0))
    assert ((white - black)[seen] > 0.29 * 255).all(), "the picture is not to be seen below the colours"
    assert ((white - black)[~seen] > 60).all(), "the picture is not to be seen around what the network saw"


def test_without_a_class_the_best_one_is_explained() -> None:
    pictures = cv2.imread(str(_PHOTO)), *np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), np.uint8)
    with ghostzoo.load(engine="onnxruntime", threads=1) as classifier:
        for picture in pictures:
            assert classifier.explain(picture).index == classifier(picture, 1)[0].index


def test_of_several_classes_of_a_name_one_is_asked_for(tiny_bundle: Bundle) -> None:
    """ImageNet has two kinds of cranes."""
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as classifier:
        explainer = replace(classifier.explainer, labels=imagenet_labels())
    with pytest.raises(OptionError, match=r"index='Crane' names the classes \[134, 517\]; give one of these numbers"):
        explainer.find("index", "Crane")
    assert explainer.find("index", "n02012849") == 134
    assert explainer.find("index", "tabby cat") == explainer.find("index", np.int64(281)) == 281


@pytest.mark.parametrize(
    ("index", "against", "message"),
    [
        (7, None, "index=7 is not a class of the model"),
        ("class-9", None, "index='class-9' is not a class of the model. Did you mean"),
        (True, None, "is not a class"),
        (3, "class-3", "Both classes are 'class-3'"),
    ],
)
def test_a_wrong_class_is_named(tiny_bundle: Bundle, index: object, against: object, message: str) -> None:
    picture = np.zeros((70, 70, 3), np.uint8)
    with (
        ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as classifier,
        pytest.raises(OptionError, match=message),
    ):
        classifier.explain(picture, index, against)


def test_a_graph_with_another_end_classifies_and_is_not_explained(tiny_bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load_from_string(tiny_bundle.model())
    relu = next(node for node in model.graph.node if node.name == "head.hidden.relu")
    for node in model.graph.node:
        node.input[:] = [relu.input[0] if name == relu.output[0] else name for name in node.input]
    model.graph.node.remove(relu)
    contents = {name: tiny_bundle.read(name) for name in tiny_bundle.manifest.files}
    contents[MODEL_FILES["fp32"]] = model.SerializeToString()
    write_bundle(tmp_path / "other", name="other", contents=contents, weights={}, created_by={}, validation={})
    picture = np.zeros((70, 70, 3), np.uint8)
    with ghostzoo.load(tmp_path / "other", engine="onnxruntime", threads=1) as classifier:
        assert len(classifier(picture)) == 5
        with pytest.raises(BundleError, match=r"model.onnx does not end in pooling, linear, ReLU and linear"):
            classifier.explain(picture)


def test_a_closed_model_explains_no_more(tiny_bundle: Bundle) -> None:
    picture = np.zeros((70, 70, 3), np.uint8)
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as classifier:
        classifier.explain(picture)
    with pytest.raises(ghostzoo.EngineError, match="was closed"):
        classifier.explain(picture)


def test_another_engine_than_auto_chose_is_told(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    require_engine("openvino")
    picture = np.zeros((70, 70, 3), np.uint8)
    monkeypatch.setattr(engine_class("openvino"), "gives_features", False)
    with ghostzoo.load(tiny_bundle.path, engine="openvino", threads=1) as named:
        with pytest.raises(EngineUnavailableError, match="openvino does not return"):
            named.explain(picture)
        measured = replace(named.selection, origin="measured")
        chosen = ghostzoo.Classifier(named.bundle, named.engine, measured, named._request)
        assert chosen.explain(picture).engine == "onnxruntime"


def test_other_precisions_than_float32_are_refused(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as classifier:
        monkeypatch.setattr(classifier.engines, "_options", EngineOptions(precision="int8"))
        with pytest.raises(OptionError, match="load it with precision='fp32'"):
            classifier.explain(np.zeros((70, 70, 3), np.uint8))


def test_the_command_writes_the_picture_and_the_numbers(tmp_path: Path) -> None:
    out = tmp_path / "why.png"
    options = ["explain", str(_PHOTO), "--class", "cat", "--against", "5", "--threads", "1"]
    result = CliRunner().invoke(main, [*options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "cat rather than dog: logit" in result.stdout
    assert cv2.imread(str(out)).shape == cv2.imread(str(_PHOTO)).shape
    found = json.loads(CliRunner().invoke(main, [*options, "--json"]).stdout)
    assert found["against_label"] == "dog"
    assert sum(map(sum, found["map"])) + found["constant"] == pytest.approx(found["logit"], abs=1e-5)
    refused = CliRunner().invoke(main, [*options, "--out", str(tmp_path / "why.gif")])
    assert refused.exit_code == 1
    assert "neither a .png nor a .jpg" in refused.stderr

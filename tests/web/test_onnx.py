"""The page changes and explains models as the package does, without a browser."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

import ghostzoo
from ghostzoo.bundle.folder import MODEL_FILES, Bundle
from ghostzoo.network.head import with_classes, with_features
from ghostzoo.serve.page_files import PACKAGE


def test_the_page_writes_and_explains_as_the_package(node: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((300, 1280), (300,)))
    pairs: list[tuple[int, int | None]] = [(0, None), (6, None), (2, 5)]
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as classifier:
        features = classifier.features(tiny_bundle.golden().pixel_values[:1])[0]
        expected = [classifier.explainer.explain(features, *pair, engine="") for pair in pairs]
    case = {"weight": weight.ravel().tolist(), "bias": bias.tolist(), "name": "größer"}
    case |= {"features": features.ravel().tolist(), "pairs": pairs}
    (tmp_path / "case.json").write_text(json.dumps(case))
    script = Path(__file__).with_name("onnx.mjs")
    model = tiny_bundle.path / MODEL_FILES["fp32"]
    command = [node, script, PACKAGE, model, tmp_path / "case.json", tmp_path]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    head = tiny_bundle.head()
    assert (tmp_path / "classes.onnx").read_bytes() == with_classes(model.read_bytes(), head, weight, bias, "größer")
    ours = onnx.load_from_string(with_features(model.read_bytes(), head))
    theirs = onnx.load(tmp_path / "features.onnx")
    del ours.graph.output[2], theirs.graph.output[2]  # the page does not know its height and width
    assert ours == theirs
    for answer, explanation in zip(found, expected, strict=True):
        assert answer["places"] == pytest.approx(explanation.map.ravel(), abs=1e-6)
        assert (answer["constant"], answer["logit"]) == pytest.approx((explanation.constant, explanation.logit))

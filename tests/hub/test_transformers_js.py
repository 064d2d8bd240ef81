"""Published models in transformers.js on Node: the peer that reads config.json and preprocessor_config.json."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ghostzoo
from exporters.quantize import PLANS, to_int8
from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import MODEL_FILES, Bundle
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.onnxruntime import OnnxRuntimeEngine
from ghostzoo.images.decode import read_image
from ghostzoo.images.transform import preprocess
from ghostzoo.network.float16 import to_float16
from ghostzoo.parity import EXACT_TOLERANCE, compare_logits
from hub.card import CardFacts
from hub.publish import Target, publish
from tests.fixtures.hub import LoopbackHub
from tests.fixtures.pictures import encoded, picture

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).with_name("node")


@pytest.fixture(scope="session")
def node() -> str:
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node.js is not installed")
    if not (FOLDER / "node_modules").is_dir():
        pytest.skip("transformers.js was not fetched; 'make peers' does it, and needs npm")
    return program


def run(node: str, environment: dict[str, str], script: Path, *arguments: object) -> str:
    command = [node, "--import", str(FOLDER / "prelude.mjs"), str(script), *map(str, arguments)]
    done = subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "photo.jpg").write_bytes(encoded(picture(120, 90), "JPEG", quality=95))
    return tmp_path / "photo.jpg"


def compare(node: str, environment: dict[str, str], bundle: Bundle, photo: Path, dtype: str = "fp32") -> dict[str, Any]:
    """What transformers.js makes of the photo by itself, and of ghostzoo's own pixels."""
    pixels = preprocess(read_image(photo), bundle.preprocessing)
    file = photo.with_suffix(".f32")
    file.write_bytes(pixels.tobytes())
    side = bundle.config.image_size
    output = run(node, environment, FOLDER / "compare.mjs", f"zoo/{bundle.name}", dtype, photo, file, side)
    result: dict[str, Any] = json.loads(output)
    return result | {"pixels": pixels}


def test_it_computes_what_ghostzoo_computes(
    node: str, hub: LoopbackHub, target: Target, bundle: Bundle, environment: dict[str, str], photo: Path
) -> None:
    publish(bundle.path, target, CardFacts())
    result = compare(node, environment, bundle, photo)
    assert result["labels"] == [label.label for label in bundle.labels]
    with ghostzoo.load(bundle.path, engine="onnxruntime") as classifier:
        logits, embedding = classifier.logits([photo]), classifier.embed([photo])
    agreement = compare_logits(logits, np.array([result["logits"]], np.float32), EXACT_TOLERANCE)
    assert agreement.within(EXACT_TOLERANCE), agreement
    np.testing.assert_allclose([result["embedding"]], embedding, rtol=1e-4, atol=1e-5)


def test_it_finds_the_smaller_graphs(
    node: str, hub: LoopbackHub, target: Target, bundle: Bundle, environment: dict[str, str], photo: Path
) -> None:
    pixels = np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype(np.float32)
    graphs = {"fp16": to_float16(bundle.model()), "int8": to_int8(bundle.model(), PLANS[-1], lambda: iter([pixels]))}
    smaller = write_bundle(
        bundle.path,
        name=bundle.name,
        contents={file: bundle.read(file) for file in bundle.manifest.files}
        | {MODEL_FILES[precision]: graph for precision, graph in graphs.items()},
        weights=bundle.manifest.weights,
        created_by={},
        validation={},
        overwrite=True,
    )
    publish(smaller.path, target, CardFacts())
    given = preprocess(read_image(photo), bundle.preprocessing)[None]
    for dtype, precision in (("fp16", "fp16"), ("q8", "int8")):
        result = compare(node, environment, smaller, photo, dtype)
        with OnnxRuntimeEngine(graphs[precision], EngineOptions(precision=precision)) as engine:
            agreement = compare_logits(engine.run(given), np.array([result["logits"]], np.float32), 0.01)
        assert agreement.within(0.01), (dtype, agreement)
    assert hub.seen("GET", "/onnx/model_fp16.onnx")
    assert hub.seen("GET", "/onnx/model_quantized.onnx")


@pytest.mark.parametrize("bundle", ["bilinear", "bicubic"], indirect=True)
def test_its_own_processor_comes_close(
    node: str, hub: LoopbackHub, target: Target, bundle: Bundle, environment: dict[str, str], photo: Path
) -> None:
    """It resizes with another library, so pixels differ by a few levels; a wrong size, crop, mean or order would not
    be a few levels."""
    publish(bundle.path, target, CardFacts())
    result = compare(node, environment, bundle, photo)
    side = bundle.config.image_size
    assert result["dims"] == [1, 3, side, side]
    own = np.array(result["ownPixels"], np.float32).reshape(3, side, side)
    levels = np.abs(own - result["pixels"]).mean() * 255 * np.mean(bundle.preprocessing.std)
    assert levels < 3, levels


def test_the_card_s_code_runs(
    node: str, hub: LoopbackHub, target: Target, bundle: Bundle, environment: dict[str, str], photo: Path
) -> None:
    publish(bundle.path, target, CardFacts())
    repository = hub.repositories["zoo/tiny"]
    card = repository.commits[repository.head].files["README.md"].content.decode()
    (photo.parent / "node_modules").symlink_to(FOLDER / "node_modules")
    with ghostzoo.load(bundle.path, engine="onnxruntime") as classifier:
        scores = {prediction.label: prediction.score for prediction in classifier(photo, top_k=7)}
    model_code, pipeline_code = re.findall(r"(?ms)^```js\n(.*?)^```$", card)
    for code in (model_code, pipeline_code):
        script = photo.with_name("card.mjs")
        script.write_text(code)
        output = run(node, environment, script)
        found = {label: float(score) for label, score in re.findall(r"(class-\d)\D+(\d\.\d+)", output)}
        assert len(found) == (1 if code is model_code else 5)
        for label, score in found.items():
            assert score == pytest.approx(scores[label], abs=0.05)

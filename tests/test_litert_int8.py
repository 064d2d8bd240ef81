"""int8 for LiteRT: quantised and measured for it, and run by its engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import ghostzoo
from exporters.quantize import PLANS, QuantizationPlan, to_int8
from exporters.quantize_command import quantize
from exporters.quantized_bundle import quantize_bundle
from ghostzoo.bundle.converted import CONVERTED_INT8_FILES
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines.base import OUTPUTS, EngineOptions
from ghostzoo.engines.onnxruntime import OnnxRuntimeEngine
from ghostzoo.errors import BundleError, OptionError, ParityError
from ghostzoo.evaluation.datasets import open_dataset
from ghostzoo.evaluation.evaluate import open_labelled
from ghostzoo.parity import EXACT_TOLERANCE, compare_logits
from tests.fixtures import graphs
from tests.fixtures.pictures import encoded, picture

pytestmark = [pytest.mark.slow]
pytest.importorskip("ai_edge_litert", reason="LiteRT is an extra, which is not installed here")

(FILE,) = CONVERTED_INT8_FILES["litert"]


def pixels(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(4, 3, 64, 64)).astype(np.float32)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eight pictures, in two class folders."""
    folder = tmp_path / "images"
    for index in range(8):
        path = folder / f"class-{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(90 + index, 80).rotate(40 * index), "PNG"))
    return folder


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(tiny_bundle.path, tmp_path / "tiny")
    return Bundle.open(tmp_path / "tiny")


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_litert_computes_what_the_int8_graph_does(tiny_bundle: Bundle, plan: QuantizationPlan) -> None:
    from exporters.to_litert import convert_graph
    from ghostzoo.engines.litert import LiteRtEngine

    graph, batch = to_int8(tiny_bundle.model(), plan, lambda: iter([pixels(seed) for seed in range(4)])), pixels(9)
    data = convert_graph(tiny_bundle, graph)
    assert len(data) < 0.45 * len(tiny_bundle.model())
    computes_int8 = plan is not PLANS[-1]
    constants, computed = int8_tensors(data)
    assert constants > 0
    assert (computed > 0) == computes_int8
    options = EngineOptions(threads=1, precision="int8")
    with OnnxRuntimeEngine(graph, options) as expected, LiteRtEngine({FILE: data}, options, 64) as engine:
        for output in OUTPUTS:
            agreement = compare_logits(expected.run(batch, output), engine.run(batch, output), 1)
            # They round halves differently, and each such step of int8 goes through the rest of the network.
            assert agreement.relative < (0.1 if computes_int8 else EXACT_TOLERANCE)


def int8_tensors(data: bytes) -> tuple[int, int]:
    """How many constants are int8, and how many tensors that are computed."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data)
    buffers = [item.buffer for item in model.subgraphs[0].tensors if item.type == schema.TensorType.INT8]
    computed = sum(model.buffers[buffer].data is None for buffer in buffers)
    return len(buffers) - computed, computed


def test_the_command_adds_what_the_engine_runs(bundle: Bundle, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    monkeypatch.delenv("GHOSTZOO_ENGINE", raising=False)
    words = [
        str(bundle.path),
        "--to",
        "int8",
        "--engine",
        "litert",
        "--calibration",
        str(images),
        "--data",
        str(images),
    ]
    result = CliRunner().invoke(quantize, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "in int8 for litert" in " ".join(result.output.split())
    written = Bundle.open(bundle.path)
    assert set(written.manifest.files) == {*bundle.manifest.files, FILE}
    facts = written.manifest.validation["precisions"]["int8_litert"]
    assert (facts["unseen_images"]["images"], facts["labelled_images"]["images"]) == (4, 8)
    assert "| `int8`, `litert` |" in written.read("README.md").decode()
    source = next(images.rglob("*.png"))
    with ghostzoo.load(bundle.path, engine="onnxruntime") as original:
        expected = original.logits(source)
    for engine in ("litert", "auto"):  # there is no other in int8
        with ghostzoo.load(bundle.path, engine=engine, precision="int8") as smaller:
            assert smaller.engine.name == "litert"
            assert smaller.self_check().relative < 0.25
            assert 0 < np.abs(expected - smaller.logits(source)).max() < 0.25 * np.abs(expected).max()
    for engine, precision in (("litert", "fp32"), ("litert", "fp16"), ("onnxruntime", "int8")):
        with pytest.raises(OptionError, match=rf"in int8 only, not in {precision}|has no int8 graph"):
            ghostzoo.load(bundle.path, engine=engine, precision=precision)


def test_a_loss_beyond_the_limit_writes_nothing(bundle: Bundle, images: Path) -> None:
    dataset, labelled = open_dataset(images, labelled=False), open_labelled(images, bundle.labels)
    files = {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}
    with pytest.raises(ParityError, match=r"in int8 for litert loses .* points of top-1 on 8 images"):
        quantize_bundle(bundle.path, "int8", dataset, engine="litert", labelled=labelled, max_loss=-200)
    with pytest.raises(OptionError, match="litert has no smaller graph in fp16"):
        quantize_bundle(bundle.path, "fp16", dataset, engine="litert")
    assert {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()} == files


def test_a_file_of_a_stranger_is_checked_first(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bad = graphs.with_files(tiny_bundle, tmp_path / "bad", {FILE: b"\x1c\0\0\0TFL3" + b"\xff" * 64})
    with pytest.raises(BundleError, match=rf"{FILE} .*; do not use this bundle"):
        ghostzoo.load(bad.path, engine="litert", precision="int8")

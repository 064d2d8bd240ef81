"""int8 for LiteRT: the int8 graph of a bundle, written for LiteRT and compared on images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from exporters.edge_formats import export_edge
from exporters.edge_formats_command import export_edge_command
from exporters.quantize import PLANS, QuantizationPlan, to_int8
from ghostzoo.bundle.folder import MODEL_FILES, Bundle
from ghostzoo.engines.base import OUTPUTS, EngineOptions
from ghostzoo.engines.onnxruntime import OnnxRuntimeEngine
from ghostzoo.errors import OptionError, ParityError
from ghostzoo.evaluation.datasets import open_dataset
from ghostzoo.parity import EXACT_TOLERANCE, compare_logits
from tests.fixtures import graphs
from tests.fixtures.pictures import encoded, picture

pytestmark = [pytest.mark.slow]
pytest.importorskip("ai_edge_litert", reason="LiteRT is an extra, which is not installed here")

INT8_FILE = "litert/model_quantized.tflite"


def pixels(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(4, 3, 64, 64)).astype(np.float32)


def int8(bundle: Bundle, plan: QuantizationPlan) -> bytes:
    return to_int8(bundle.model(), plan, lambda: iter([pixels(seed) for seed in range(4)]))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(4):
        (folder / f"{index}.png").write_bytes(encoded(picture(90 + index, 80).rotate(40 * index), "PNG"))
    return folder


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """With an int8 graph that computes in float32, which loses little even of an untrained network."""
    return graphs.with_files(tiny_bundle, tmp_path / "tiny", {MODEL_FILES["int8"]: int8(tiny_bundle, PLANS[-1])})


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_litert_computes_what_the_int8_graph_does(tiny_bundle: Bundle, plan: QuantizationPlan) -> None:
    import onnx

    from exporters.litert_network import LiteRtNetwork
    from ghostzoo.engines.litert import LiteRtEngine

    graph, batch = int8(tiny_bundle, plan), pixels(9)
    data = LiteRtNetwork(onnx.load_from_string(graph).graph, 64).serialize("tiny")
    assert len(data) < 0.45 * len(tiny_bundle.model())
    computes_int8 = plan is not PLANS[-1]
    constants, computed = int8_tensors(data)
    assert constants > 0
    assert (computed > 0) == computes_int8
    with (
        OnnxRuntimeEngine(graph, EngineOptions(threads=1, precision="int8")) as expected,
        LiteRtEngine({"litert/model.tflite": data}, EngineOptions(threads=1), 64) as engine,
    ):
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


def test_the_int8_file_joins_the_bundle(bundle: Bundle, images: Path) -> None:
    from click.testing import CliRunner

    words = [str(bundle.path), "--to", "litert", "--int8-images", str(images)]
    result = CliRunner().invoke(export_edge_command, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "keeps the top-1 of float32 on 4 of 4 images" in result.output
    written = Bundle.open(bundle.path)
    assert {"litert/model.tflite", INT8_FILE} <= set(written.manifest.files)
    facts = written.manifest.validation["conversions"]["litert_int8"]
    assert (facts["images"], facts["same_top1"]) == (4, 1.0)


def test_an_int8_file_that_loses_too_much_is_not_written(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    """An int8 graph that sees the same class everywhere."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(bundle.model("int8"))
    (bias,) = (item for item in model.graph.initializer if item.name == "head.logits.bias")
    values = numpy_helper.to_array(bias).copy()
    values[np.argmin(values)] += 1e4
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    bad = graphs.with_files(bundle, tmp_path / "bad", {MODEL_FILES["int8"]: model.SerializeToString()})
    with pytest.raises(ParityError, match=r"keeps the best class of [0-3] of 4 images in LiteRT.*Nothing was written"):
        export_edge(bad.path, "litert", int8_images=open_dataset(images, labelled=False))
    assert not (bad.path / "litert").exists()


def test_without_an_int8_graph_the_command_is_told(tiny_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "tiny")
    given = open_dataset(images, labelled=False)
    with pytest.raises(OptionError, match="has no int8 graph"):
        export_edge(tmp_path / "tiny", "litert", int8_images=given)
    with pytest.raises(OptionError, match="litert alone"):
        export_edge(tmp_path / "tiny", "mnn", int8_images=given)
    assert not (tmp_path / "tiny" / "litert").exists()

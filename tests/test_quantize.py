"""Smaller graphs: what is written, what they compute, what is refused; through the command and through ``load``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import ghostzoo
from exporters.quantize import PLANS, to_int8
from exporters.quantized_bundle import quantize_bundle
from ghostzoo.bundle.folder import MODEL_FILES, Bundle
from ghostzoo.catalog import DEFAULT_MODEL
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.onnxruntime import OnnxRuntimeEngine
from ghostzoo.errors import EngineUnavailableError, InputError, OptionError, ParityError
from ghostzoo.evaluation.datasets import open_dataset
from ghostzoo.evaluation.evaluate import open_labelled
from ghostzoo.fetch.resolver import BUNDLED_FOLDER
from ghostzoo.network.float16 import to_float16
from tests.fixtures.engines import require_engine
from tests.fixtures.pictures import encoded, picture

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures, in two class folders."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(8):
        path = folder / f"class-{index % 2}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(picture(90 + index, 80).rotate(40 * index), "PNG"))
    return folder


def test_the_embedded_model_shrinks_as_promised() -> None:
    bundle = Bundle.open(BUNDLED_FOLDER / DEFAULT_MODEL)
    model, side = bundle.model(), bundle.config.image_size
    batch = np.random.default_rng(0).normal(size=(4, 3, side, side)).astype(np.float32)
    assert len(to_float16(model)) <= 0.52 * len(model)
    for plan in PLANS:
        assert len(to_int8(model, plan, lambda: iter([batch]))) <= 0.32 * len(model)


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(tiny_bundle.path, tmp_path / "tiny")
    return Bundle.open(tmp_path / "tiny")


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 3, 64, 64)).astype(np.float32)


def operators(model: bytes) -> dict[str, int]:
    kinds = [node.op_type for node in onnx.load_from_string(model).graph.node]
    return {kind: kinds.count(kind) for kind in kinds}


def test_float16_keeps_its_inputs_and_outputs(tiny_bundle: Bundle) -> None:
    smaller = to_float16(tiny_bundle.model())
    onnx.checker.check_model(smaller, full_check=True)
    graph = onnx.load_from_string(smaller).graph
    assert {value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]} == {onnx.TensorProto.FLOAT}
    weights = [tensor for tensor in graph.initializer if not tensor.name.startswith("scales.")]  # of Resize: float32
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
    assert len(smaller) < 0.6 * len(tiny_bundle.model())


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_every_plan_computes_the_network(tiny_bundle: Bundle, plan: object) -> None:
    smaller = to_int8(tiny_bundle.model(), plan, lambda: iter([pixels(seed) for seed in range(4)]))
    onnx.checker.check_model(smaller, full_check=True)
    counts = operators(smaller)
    assert ("QuantizeLinear" in counts) == (plan.name != "weights")
    assert counts["Cast"] > 0
    with (
        OnnxRuntimeEngine(tiny_bundle.model(), EngineOptions()) as original,
        OnnxRuntimeEngine(smaller, EngineOptions(precision="int8")) as quantized,
    ):
        expected, actual = original.run(pixels(9)), quantized.run(pixels(9))
        assert 0 < np.abs(expected - actual).max() < 0.25 * np.abs(expected).max()
        assert original.run(pixels(9), "embedding").shape == quantized.run(pixels(9), "embedding").shape


def test_activations_are_per_tensor_and_weights_per_channel(tiny_bundle: Bundle) -> None:
    graph = onnx.load_from_string(to_int8(tiny_bundle.model(), PLANS[0], lambda: iter([pixels()]))).graph
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = [
        node for node in graph.node if node.op_type == "DequantizeLinear" and len(shapes.get(node.input[0], ())) == 4
    ]
    assert weights
    for node in weights:
        assert kinds[node.input[0]] == onnx.TensorProto.INT8
        assert shapes[node.input[1]] == [shapes[node.input[0]][0]]
    activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert activations
    assert all(not shapes[node.input[1]] for node in activations)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_bundle_gets_both_and_engines_run_them(bundle: Bundle, images: Path, engine: str) -> None:
    require_engine(engine)
    dataset = open_dataset(images, labelled=False)
    labelled = open_labelled(images, bundle.labels)
    before = bundle.model()
    for precision in ("fp16", "int8"):
        result = quantize_bundle(bundle.path, precision, dataset, labelled=labelled)
        assert result.unseen.same_top1.total == 4
        assert result.evaluated is not None
        assert result.evaluated.same_top1.total == 8
    written = Bundle.open(bundle.path)
    assert written.precisions == ("fp32", "fp16", "int8")
    assert written.model() == before
    facts = written.manifest.validation["precisions"]
    assert facts["fp16"]["labelled_images"]["images"] == 8
    assert facts["int8"]["calibration_images"] == 4
    assert facts["fp16"]["size_ratio"] == round(len(written.model("fp16")) / len(before), 4)
    card = written.read("README.md").decode()
    assert card.count("## Smaller graphs") == 1
    assert "| `fp16` |" in card
    assert "| `int8` |" in card
    source = next(images.rglob("*.png"))
    with ghostzoo.load(bundle.path, engine=engine) as original:
        expected = original.logits(source)
    for precision in ("fp16", "int8"):
        with ghostzoo.load(bundle.path, engine=engine, precision=precision) as smaller:
            actual = smaller.logits(source)
        assert 0 < np.abs(expected - actual).max() < 0.25 * np.abs(expected).max()


def test_quantising_again_replaces_what_was_there(bundle: Bundle, images: Path) -> None:
    dataset = open_dataset(images, labelled=False)
    first = quantize_bundle(bundle.path, "fp16", dataset).bundle.path / "README.md"
    text = first.read_text()
    assert quantize_bundle(bundle.path, "fp16", dataset).bundle.precisions == ("fp32", "fp16")
    assert first.read_text() == text


def test_a_loss_beyond_the_limit_writes_nothing(bundle: Bundle, images: Path) -> None:
    dataset, labelled = open_dataset(images, labelled=False), open_labelled(images, bundle.labels)
    files = {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}
    with pytest.raises(ParityError, match=r"loses .* points of top-1 on 8 images"):
        quantize_bundle(bundle.path, "fp16", dataset, labelled=labelled, max_loss=-200)
    assert {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()} == files
    with pytest.raises(OptionError, match="labelled images"):
        quantize_bundle(bundle.path, "fp16", dataset, max_loss=1)


def test_one_image_is_not_enough(bundle: Bundle, images: Path) -> None:
    with pytest.raises(InputError, match="at least two images"):
        quantize_bundle(bundle.path, "int8", open_dataset(images, labelled=False), max_images=1)


def test_a_bundle_without_the_graph_says_what_it_has(bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="no int8 graph, only fp32; take fp32"):
        ghostzoo.load(bundle.path, engine="onnxruntime", precision="int8")


def test_a_multi_label_model_is_quantised_as_one(multi_label_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    shutil.copytree(multi_label_bundle.path, tmp_path / "tags")
    command = [
        sys.executable,
        "-m",
        "exporters",
        "quantize",
        tmp_path / "tags",
        "--to",
        "fp16",
        "--calibration",
        images,
    ]
    refused = subprocess.run([*command, "--data", images], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "--data measures top-1, and tiny is a multi-label model" in refused.stderr
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    bundle = Bundle.open(tmp_path / "tags")
    assert bundle.postprocessing.multi_label
    assert "fp16" in bundle.precisions


def test_the_command_adds_a_graph(bundle: Bundle, images: Path) -> None:
    command = [sys.executable, "-m", "exporters", "quantize", bundle.path, "--to", "int8", "--calibration", images]
    done = subprocess.run([*map(str, command), "--data", str(images)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "of float32" in " ".join(done.stdout.split())
    assert (bundle.path / MODEL_FILES["int8"]).is_file()
    wrong = subprocess.run([*map(str, command), "--max-loss", "1"], capture_output=True, text=True, cwd=ROOT)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("Error: ")


def test_missing_tools_are_one_sentence(bundle: Bundle, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from exporters.quantize_command import quantize

    monkeypatch.setitem(sys.modules, "exporters.quantized_bundle", None)
    done = CliRunner().invoke(quantize, [str(bundle.path), "--to", "fp16", "--calibration", str(images)])
    assert done.exit_code == 1
    assert "pip install ml_dtypes" in done.output
    assert EngineUnavailableError.__name__ not in done.output

"""The emitted graph computes what the weights say, in every engine, and is the same file every time."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from ghostzoo import __version__
from ghostzoo.engines import engine_class
from ghostzoo.errors import OptionError
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.graph import build_graph
from ghostzoo.network.graph_builder import IR_VERSION, OPSET_VERSION, enlargement
from ghostzoo.network.graph_check import check_graph
from ghostzoo.network.reference import reference_forward
from ghostzoo.parity import compare_logits
from ghostzoo.weights.params import read_weights
from tests.fixtures.engines import require_engine
from tests.fixtures.networks import random_arrays

Floats = NDArray[np.float32]
SHA256 = "0123456789abcdef" * 4
WIDTHS = [0.1, 0.25, 0.35, 0.5, 0.75, 1.0, 1.3]


def graph_of(
    width: float, num_classes: int, size: int = 64, arrays: dict[str, Floats] | None = None
) -> tuple[bytes, dict[str, Floats], Architecture]:
    architecture = Architecture.of(width, num_classes)
    arrays = arrays or random_arrays(architecture)
    graph = build_graph(arrays, architecture, model_name="GhostNet_test", weights_sha256=SHA256, image_size=size)
    return graph, arrays, architecture


def session_of(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def images(count: int, size: int = 64) -> Floats:
    return np.random.default_rng(size + count).normal(size=(count, 3, size, size)).astype(np.float32)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("num_classes", [1, 7, 1000])
def test_onnx_accepts_the_graph(width: float, num_classes: int) -> None:
    graph, _, _ = graph_of(width, num_classes)
    onnx.checker.check_model(graph, full_check=True)


@pytest.mark.parametrize(("width", "num_classes", "size"), [
    (0.1, 7, 64), (0.25, 1, 64), (0.35, 7, 64), (0.5, 1000, 64), (0.75, 7, 64), (1.0, 7, 64), (1.3, 1000, 64),
    (0.01, 2, 64), (0.333, 3, 64), (0.35, 7, 32), (0.35, 7, 75), (0.35, 7, 1),
])  # fmt: skip
def test_the_graph_is_the_forward_pass(width: float, num_classes: int, size: int) -> None:
    graph, arrays, architecture = graph_of(width, num_classes, size)
    pixels = images(2, size)
    expected = reference_forward(arrays, architecture, pixels)
    for reference, actual in zip(
        expected, session_of(graph).run(["logits", "embedding"], {"pixel_values": pixels}), strict=True
    ):
        assert actual.shape == reference.shape
        agreement = compare_logits(reference, actual)
        assert agreement.scale > 1e-3
        assert agreement.within(1e-5), str(agreement)


FAMILY_MODELS = ["ghostnet_050", "ghostnetv2_025", "ghostnetv3_035", "repghostnet_058"]


@pytest.mark.parametrize(("name", "size", "fused"), [
    *((name, size, False) for name in FAMILY_MODELS for size in (33, 75, 224)),
    ("ghostnetv3_035", 64, True), ("repghostnet_058", 64, True),
])  # fmt: skip
def test_the_graph_of_each_family_is_its_forward_pass(name: str, size: int, fused: bool) -> None:
    named = Architecture.named(name, 7)
    architecture = Architecture.of(named.width, 7, named.family, fused=fused)
    arrays = random_arrays(architecture)
    graph = build_graph(arrays, architecture, model_name=name, weights_sha256=SHA256, image_size=size)
    onnx.checker.check_model(graph, full_check=True)
    check_graph(graph, name, num_classes=7, image_size=size)
    pixels = images(2, size)
    expected = reference_forward(arrays, architecture, pixels)
    for reference, actual in zip(
        expected, session_of(graph).run(["logits", "embedding"], {"pixel_values": pixels}), strict=True
    ):
        assert compare_logits(reference, actual).within(1e-5)


@pytest.mark.parametrize("name", ["ghostnetv2_100", "ghostnetv3_100"])
def test_images_too_small_for_attention_are_refused(name: str) -> None:
    architecture = Architecture.named(name, 7)
    with pytest.raises(OptionError, match="at least 33 pixels a side, not 32"):
        build_graph({}, architecture, model_name=name, weights_sha256=SHA256, image_size=32)


def test_gates_are_enlarged_by_the_right_pixels() -> None:
    """The size of the result and the source of each of its pixels, for every size that an image may lead to."""
    for half in range(1, 513):
        for size in (2 * half, 2 * half + 1):
            factor = np.float32(enlargement(half, size))
            assert int(half * factor) == int(half * float(factor)) == size
            sources = np.arange(size) * half // size
            np.testing.assert_array_equal((np.arange(size, dtype=np.float32) / factor).astype(int), sources)


@pytest.mark.parametrize("width", [0.25, 0.35, 1.0])
def test_openvino_agrees(width: float) -> None:
    graph, arrays, architecture = graph_of(width, 7)
    pixels = images(2)
    logits, embedding = reference_forward(arrays, architecture, pixels)
    require_engine("openvino")
    engine_class("openvino")  # imports it without its usage report
    core = sys.modules["openvino"].Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = compiled({"pixel_values": pixels})
    assert compare_logits(logits, result["logits"]).within(1e-5)
    assert compare_logits(embedding, result["embedding"]).within(1e-5)


def test_saturated_gates_clip() -> None:
    """Gates far beyond 0 and 1 on every block: a hard-sigmoid, or no clip, would give other logits."""
    architecture = Architecture.of(0.25, 7)
    arrays = random_arrays(architecture)
    rng = np.random.default_rng(3)
    for key in arrays:
        if key.endswith("excitation.bias"):
            arrays[key] = rng.normal(0.5, 2, arrays[key].shape).astype(np.float32)
    graph, _, _ = graph_of(0.25, 7, arrays=arrays)
    pixels = images(2)
    logits, _ = reference_forward(arrays, architecture, pixels)
    assert compare_logits(logits, session_of(graph).run(["logits"], {"pixel_values": pixels})[0]).within(1e-5)


def test_the_batch_is_dynamic_and_its_images_independent() -> None:
    session = session_of(graph_of(0.25, 7)[0])
    pixels = images(5)
    together = session.run(["logits"], {"pixel_values": pixels})[0]
    assert together.shape == (5, 7)
    for index in range(5):
        alone = session.run(["logits"], {"pixel_values": pixels[index : index + 1]})[0]
        np.testing.assert_allclose(alone[0], together[index], rtol=1e-4, atol=1e-5)


def test_inputs_outputs_versions_and_metadata() -> None:
    model = onnx.load_from_string(graph_of(0.35, 7, 96)[0])
    assert model.ir_version == IR_VERSION == 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET_VERSION)] == [("", 17)]
    assert (model.producer_name, model.producer_version) == ("ghostzoo", __version__)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "ghostzoo.model": "GhostNet_test",
        "ghostzoo.version": __version__,
        "ghostzoo.weights_sha256": SHA256,
        "ghostzoo.family": "ghostnet_paddle",
        "ghostzoo.width": "0.35",
    }

    def described(value: onnx.ValueInfoProto) -> tuple[str, int, list[Any]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [d.dim_param or d.dim_value for d in tensor.shape.dim]

    float32 = onnx.TensorProto.FLOAT
    assert [described(value) for value in model.graph.input] == [("pixel_values", float32, ["batch", 3, 96, 96])]
    assert [described(value) for value in model.graph.output] == [
        ("logits", float32, ["batch", 7]),
        ("embedding", float32, ["batch", 1280]),
    ]


@pytest.mark.parametrize("width", [0.35, 1.0])
def test_nodes_have_readable_names_of_their_own(width: float) -> None:
    graph = onnx.load_from_string(graph_of(width, 7)[0]).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"(stem|head|blocks\.\d+)(\.[a-z0-9]+)*", name) for name in names)
    assert {"blocks.5.ghost1.primary", "blocks.3.se.squeeze", "head.logits", "stem"} <= set(names)
    tensors = [output for node in graph.node for output in node.output] + [tensor.name for tensor in graph.initializer]
    assert len(set(tensors)) == len(tensors)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert set(tensors) <= used


@pytest.mark.parametrize("width", WIDTHS)
def test_batch_norm_is_folded_and_channels_are_blocked(width: float) -> None:
    graph = onnx.load_from_string(graph_of(width, 7)[0]).graph
    operators = {node.op_type for node in graph.node}
    assert operators == {"Conv", "Relu", "Add", "Concat", "Mul", "Clip", "GlobalAveragePool", "Flatten", "Resize"}
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and node.name != "head.logits":
            assert shapes[node.input[1]][0] % 8 == 0, node.name
    assert all(tensor.HasField("raw_data") for tensor in graph.initializer)
    # Between the halves of a ghost module's end nothing is concatenated but the pooled means.
    assert all(
        re.fullmatch(r"blocks\.\d+\.(ghost2|se\.pool)\.concat", node.name)
        for node in graph.node
        if node.op_type == "Concat"
    )


def test_batch_norm_is_folded_in_float64() -> None:
    """To the bit: each step in float32 would round on its own."""
    graph, arrays, _ = graph_of(1.0, 7)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(graph).graph.initializer}
    gamma, beta, mean, variance = (
        arrays[f"conv1._batch_norm.{name}"].astype(np.float64) for name in ("weight", "bias", "_mean", "_variance")
    )
    scale = gamma / np.sqrt(variance + 1e-5)
    weight = arrays["conv1._conv.weight"].astype(np.float64) * scale[:, None, None, None]
    channels = len(scale)
    np.testing.assert_array_equal(constants["stem.weight"][:channels], weight.astype(np.float32))
    np.testing.assert_array_equal(constants["stem.bias"][:channels], (beta - mean * scale).astype(np.float32))


def test_the_same_weights_give_the_same_bytes_in_any_process() -> None:
    code = (
        "import sys, hashlib\nfrom tests.network.test_graph import graph_of\n"
        "print(hashlib.sha256(graph_of(0.35, 7)[0]).hexdigest())"
    )
    digests = {hashlib.sha256(graph_of(0.35, 7)[0]).hexdigest()}
    for seed in ("0", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(result.stdout.strip())
    assert len(digests) == 1


def test_building_changes_no_weights() -> None:
    arrays = random_arrays(Architecture.of(0.35, 7))
    kept = {key: array.copy() for key, array in arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False
    graph_of(0.35, 7, arrays=arrays)
    assert all(np.array_equal(array, kept[key]) for key, array in arrays.items())


@pytest.mark.parametrize(("name", "width"), [("x0_5", 0.5), ("x1_0", 1.0), ("x1_3", 1.3)])
def test_reference_weights_give_the_original_logits(shared: Path, name: str, width: float) -> None:
    reference = shared / "reference"
    weights = read_weights(reference / f"GhostNet_{name}_pretrained.pdparams", width=width)
    recorded = np.load(reference / f"GhostNet_{name}_logits.npz")
    logits = dict(zip((Path(str(file)).name for file in recorded["files"]), recorded["logits"], strict=True))
    graph = build_graph(weights.arrays, weights.architecture, model_name=name, weights_sha256=SHA256, image_size=224)
    photos = np.load(reference / "preprocessed.npz")
    assert len(photos.files) == 7
    pixels = np.stack([photos[photo].reshape(3, 224, 224) for photo in photos.files])
    expected = np.stack([logits[photo] for photo in photos.files])
    agreement = compare_logits(expected, session_of(graph).run(["logits"], {"pixel_values": pixels})[0])
    assert agreement.within(2e-5), str(agreement)

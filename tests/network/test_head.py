"""The last layers of a graph: read by its structure, and changed in the file's bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from ghostzoo.network.architecture import Architecture
from ghostzoo.network.graph import build_graph
from ghostzoo.network.head import read_head, with_classes, with_features
from ghostzoo.network.wire import RefusedGraphError
from tests.fixtures.networks import random_arrays

_SIZE = 64


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return random_arrays(Architecture.of(0.25, 7))


def write(arrays: dict[str, np.ndarray], classes: int, name: str) -> bytes:
    architecture = Architecture.of(0.25, classes)
    return build_graph(arrays, architecture, model_name=name, weights_sha256="0" * 64, image_size=_SIZE)


@pytest.mark.parametrize("classes", [1, 3, 300])
def test_other_classes_give_the_graph_that_their_weights_give(arrays: dict[str, np.ndarray], classes: int) -> None:
    rng = np.random.default_rng(classes)
    weight = rng.normal(size=(classes, 1280)).astype(np.float32)
    bias = rng.normal(size=classes).astype(np.float32)
    graph = write(arrays, 7, "old")
    head = read_head(graph, num_classes=7, image_size=_SIZE)
    expected = write({**arrays, "fc_1.weight": weight.T, "fc_1.bias": bias}, classes, "a-longer-name")
    assert with_classes(graph, head, weight, bias, "a-longer-name") == expected


def test_features_are_a_third_output_and_nothing_else_changes(arrays: dict[str, np.ndarray]) -> None:
    graph = write(arrays, 7, "tiny")
    head = read_head(graph, num_classes=7, image_size=_SIZE)
    changed = onnx.load_from_string(with_features(graph, head))
    onnx.checker.check_model(changed, full_check=True)
    assert [output.name for output in changed.graph.output] == ["logits", "embedding", "features"]
    shape = changed.graph.output[2].type.tensor_type.shape.dim
    assert (shape[0].dim_param, *(side.dim_value for side in shape[1:])) == ("batch", *head.shape)
    del changed.graph.output[2]
    for node in changed.graph.node:
        for names in (node.input, node.output):
            names[:] = [head.features if name == "features" else name for name in names]
    assert changed == onnx.load_from_string(graph)


def _without_relu(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.input[:] = ["head.hidden" if name == "head.hidden.relu" else name for name in node.input]
    model.graph.node.remove(next(node for node in model.graph.node if node.name == "head.hidden.relu"))


def _logits_of_something_else(model: onnx.ModelProto) -> None:
    last = next(node for node in model.graph.node if node.name == "head.logits")
    last.input[0] = "head.hidden"


def _bias_in_typed_values(model: onnx.ModelProto) -> None:
    bias = next(item for item in model.graph.initializer if item.dims == [7])
    bias.CopyFrom(onnx.helper.make_tensor(bias.name, bias.data_type, bias.dims, onnx.numpy_helper.to_array(bias)))


@pytest.mark.parametrize("change", [_without_relu, _logits_of_something_else, _bias_in_typed_values])
def test_a_graph_with_another_end_is_refused(
    arrays: dict[str, np.ndarray], change: Callable[[onnx.ModelProto], None]
) -> None:
    model = onnx.load_from_string(write(arrays, 7, "tiny"))
    change(model)
    with pytest.raises(RefusedGraphError, match="does not end in pooling, linear, ReLU and linear"):
        read_head(model.SerializeToString(), num_classes=7, image_size=_SIZE)

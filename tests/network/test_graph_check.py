"""Graphs are read as data and held against what a GhostNet has, before an engine sees them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from exporters.quantize import PLANS, to_int8
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import BundleError
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.float16 import to_float16
from ghostzoo.network.graph import build_graph
from ghostzoo.network.graph_check import check_graph
from tests.fixtures import graphs
from tests.fixtures.networks import random_arrays

CLASSES, SIZE = 7, 64


def check(data: bytes, classes: int = CLASSES, size: int = SIZE) -> None:
    check_graph(data, "model.onnx", num_classes=classes, image_size=size)


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0, 1.3])
@pytest.mark.parametrize("size", [32, 224])
def test_what_the_converter_writes_is_admitted(width: float, size: int) -> None:
    architecture = Architecture.of(width, 1000)
    arrays = random_arrays(architecture)
    graph = build_graph(arrays, architecture, model_name="any", weights_sha256="0" * 64, image_size=size)
    check(graph, 1000, size)
    check(to_float16(graph), 1000, size)
    with pytest.raises(BundleError, match=r"declares logits other than as float32 of shape \(N, 999\)"):
        check(graph, 999, size)
    with pytest.raises(BundleError, match=r"declares pixel_values other than"):
        check(graph, 1000, size + 1)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_what_the_quantiser_writes_is_admitted(tiny_bundle: Bundle, plan: object) -> None:
    def batches() -> Iterator[np.ndarray]:
        yield np.random.default_rng(0).normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)

    check(to_int8(tiny_bundle.model(), plan, batches))  # type: ignore[arg-type]


def many(operator: str, count: int) -> graphs.Change:
    return graphs.before_logits(*[operator] * count)


def repeated_convolution(model: onnx.ModelProto) -> None:
    """Each of few values, and all of them of every channel."""
    last = "pixel_values"
    for index in range(300):
        shape = (64, 3 if index == 0 else 64, 1, 1)
        weight = graphs.constant(model, f"dear.{index}", np.ones(shape, np.float32))
        model.graph.node.append(onnx.helper.make_node("Conv", [last, weight], [f"dear.{index}.out"]))
        last = f"dear.{index}.out"


def set_name(name: str) -> graphs.Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].name = name

    return change


def conv(**attributes: object) -> graphs.Change:
    """Give the first convolution other attributes."""

    def change(model: onnx.ModelProto) -> None:
        node = model.graph.node[0]
        kept = [item for item in node.attribute if item.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attributes.items())])

    return change


def first_weight(**fields: object) -> graphs.Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(tensor, name)[:]
                getattr(tensor, name).extend(value)
            else:
                setattr(tensor, name, value)

    return change


def values(model: onnx.ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("stem", TensorProto.FLOAT, [2**40]))


def annotated(model: onnx.ModelProto) -> None:
    model.graph.quantization_annotation.add(tensor_name="stem")


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add(dims=[1])


def trained(model: onnx.ModelProto) -> None:
    model.training_info.add()


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch"]))


def two_batches(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def same_output_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["pixel_values"], ["logits"]))


def reversed_nodes(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def other_opset(domain: str, version: int) -> graphs.Change:
    def change(model: onnx.ModelProto) -> None:
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid(domain, version))

    return change


def batch_by_batch(model: onnx.ModelProto) -> None:
    """(N, 7) times (N, 7, 1, 1) would be as many numbers as there are pairs of images."""
    model.graph.node.append(helper.make_node("GlobalAveragePool", ["pixel_values"], ["pooled"]))
    model.graph.node.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    model.graph.node.append(helper.make_node("Mul", ["flat", "pooled"], ["pairs"]))


def conv_twice(model: onnx.ModelProto) -> None:
    node = model.graph.node[0]
    for _ in range(2):
        node.attribute.append(helper.make_attribute("group", 1))


def node_attribute(**fields: Any) -> graphs.Change:
    """Give the first node one attribute more."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].attribute.append(onnx.AttributeProto(name="more", **fields))

    return change


def on_model(change: Callable[[onnx.ModelProto], object]) -> graphs.Change:
    return lambda model: change(model) and None


def typed_weight(kind: int, *values: int) -> graphs.Change:
    """Values of a type that is not in ``raw_data``."""
    return lambda model: model.graph.initializer.append(
        TensorProto(name="typed", data_type=kind, dims=[len(values)], int32_data=values)
    )


REFUSED: dict[str, tuple[graphs.Change, str]] = {
    "external data by path": (graphs.external(".env"), "has external data"),
    "external data by address": (graphs.external("*/_ORT_MEM_ADDR_/*", 4096), "has external data"),
    "data location alone": (first_weight(data_location=1), "has external data"),
    "If": (graphs.subgraph("If"), "branch or loop"),
    "Loop": (graphs.subgraph("Loop"), "branch or loop"),
    "function": (graphs.function, "functions of its own"),
    "200,000 nodes": (many("Identity", 200_000), "more than 4096 of node"),
    "other operator": (many("Identity", 1), "operator 'Identity'"),
    "Expand": (graphs.expand_chain, "operator 'Expand'|data type 7"),
    "Resize to huge": (graphs.resize_chain, "more values in its tensors"),
    "Concat to huge": (graphs.concat_chain, "more values in its tensors"),
    "weights to huge": (graphs.wide_kernel, "more computed weights"),
    "many convolutions": (repeated_convolution, "more multiplications"),
    "pairs of images": (batch_by_batch, "mixes images of a batch|do not go together"),
    "value_info": (values, "shapes of tensors between its nodes"),
    "annotation": (annotated, "quantization annotations"),
    "sparse": (sparse, "sparse tensors"),
    "training": (trained, "training information"),
    "second input": (second_input, "not pixel_values alone"),
    "fixed batch": (two_batches, "declares pixel_values other than"),
    "name twice": (same_output_twice, "two tensors of the name 'logits'"),
    "wrong order": (reversed_nodes, "before it is computed"),
    "other domain": (other_opset("com.microsoft", 1), "other operators than ONNX's own"),
    "other opset": (other_opset("", 9), "no opset version"),
    "long name": (set_name("n" * 1000), "name of 1000 bytes"),
    "control character": (set_name("a\x1b[2J"), "control characters"),
    "unknown attribute": (conv(auto_pad="VALID"), "attribute 'auto_pad'"),
    "attribute of another type": (conv(group=[1]), "attribute 'group' of the wrong type"),
    "kernel of another size": (conv(kernel_shape=[9, 9]), "do not go together"),
    "huge pads": (conv(pads=[2**40] * 4), "impossible strides, dilations or pads"),
    "negative pads": (conv(pads=[-1] * 4), "impossible strides, dilations or pads"),
    "huge dilation": (conv(dilations=[2**62, 1]), "impossible|larger than its input"),
    "zero stride": (conv(strides=[0, 0]), "impossible strides, dilations or pads"),
    "zero groups": (conv(group=0), "does not fit its input's channels"),
    "huge dims": (first_weight(dims=[2**31, 2**31, 1, 1]), "other data than its shape and type need"),
    "negative dims": (first_weight(dims=[-1, -8, 3, 3]), "impossible shape"),
    "both kinds of data": (first_weight(float_data=[1.0]), "other data than its shape and type need"),
    "text": (first_weight(data_type=8), "data type 8"),
    "text data": (first_weight(string_data=[b"x"]), "tensor of text"),
    "five dimensions": (first_weight(dims=[1] * 5), "more than 4 of dims"),
    "segments": (on_model(lambda m: m.graph.initializer[0].segment.SetInParent()), "tensor in segments"),
    "typed data of another count": (typed_weight(3, *[1] * 4097), "more than 4096 of int32_data"),
    "too many floats": (
        on_model(
            lambda m: m.graph.initializer.append(TensorProto(name="f", data_type=1, dims=[4097], float_data=[0] * 4097))
        ),
        "more than 4096 of float_data",
    ),
    "uint8 beyond its range": (typed_weight(2, 256), "values that its type does not have"),
    "negative uint8": (typed_weight(2, -1), "values that its type does not have"),
    "int8 beyond its range": (typed_weight(3, 128), "values that its type does not have"),
    "int8 below its range": (typed_weight(3, -129), "values that its type does not have"),
    "float16 beyond its range": (typed_weight(10, 2**16), "values that its type does not have"),
    "old format": (on_model(lambda m: setattr(m, "ir_version", 6)), "no ir_version from 7 to 13"),
    "new format": (on_model(lambda m: setattr(m, "ir_version", 14)), "no ir_version"),
    "opset 12": (other_opset("", 12), "no opset version from 13 to 24"),
    "opset 25": (other_opset("", 25), "no opset version"),
    "two opsets": (on_model(lambda m: m.opset_import.append(helper.make_opsetid("", 17))), "other operators than"),
    "no opset": (on_model(lambda m: m.ClearField("opset_import")), "other operators than ONNX's own .none"),
    "no graph": (on_model(lambda m: m.ClearField("graph")), "holds no graph"),
    "input without a shape": (
        on_model(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")),
        "without the shape of a tensor",
    ),
    "input without a type": (on_model(lambda m: m.graph.input[0].ClearField("type")), "without the shape of a tensor"),
    "size that is nothing": (
        on_model(lambda m: m.graph.output[0].type.tensor_type.shape.dim[1].Clear()),
        "neither a number nor a name",
    ),
    "node of another domain": (on_model(lambda m: setattr(m.graph.node[0], "domain", "x")), "operator 'Conv' of 'x'"),
    "65 inputs of a node": (on_model(lambda m: m.graph.node[0].input.extend(["x"] * 65)), "more than 64 of input"),
    "two outputs of a node": (on_model(lambda m: m.graph.node[0].output.append("x")), "more than 1 of output"),
    "an attribute twice": (conv_twice, "the attribute 'group' twice"),
    "value of another field": (node_attribute(i=1, type=3), "not of the type it names"),
    "two values": (node_attribute(i=1, s=b"x", type=2), "not of the type it names"),
    "number with a point": (node_attribute(f=1.0, type=1), "field that a GhostNet does not need"),
    "tensor in a node": (node_attribute(t=TensorProto(), type=4), "a tensor within a node"),
    "tensors in a node": (node_attribute(tensors=[TensorProto()], type=9), "a tensor within a node"),
    "sparse tensor in a node": (node_attribute(sparse_tensor={}, type=11), "sparse tensor within a node"),
    "sparse tensors in a node": (node_attribute(sparse_tensors=[{}], type=12), "sparse tensor within a node"),
    "type in a node": (node_attribute(tp={}, type=13), "a type within a node"),
    "types in a node": (node_attribute(type_protos=[{}], type=14), "a type within a node"),
    "graphs in a node": (node_attribute(graphs=[{}], type=10), "branch or loop"),
    "reference to a function": (node_attribute(ref_attr_name="x", type=2), "attribute of a function"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_ghostnet_does_not_need_is_refused(tiny_bundle: Bundle, tmp_path: Path, name: str) -> None:
    change, reason = REFUSED[name]
    bundle = graphs.with_graph(tiny_bundle, tmp_path / "bad", graphs.changed(tiny_bundle, change))
    with pytest.raises(BundleError, match=reason) as caught:
        bundle.model()
    message = str(caught.value)
    assert message.startswith(f"Bundle {bundle.path}: onnx/model.onnx ")
    assert message.endswith("; do not use this bundle.")
    assert "\n" not in message


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


AMBIGUOUS: dict[str, Callable[[bytes], bytes]] = {
    "a second graph, which parsers merge": lambda data: data + message(7, b"\x0a\x00"),
    "a second ir_version, of which parsers keep the last": lambda data: data + b"\x08\x08",
    "an unknown field, which parsers pass over": lambda data: data + message(99, b"x"),
    "a known field of another wire type": lambda data: data + b"\x3d\0\0\0\0",
    "a group": lambda data: data + b"\x3b\x3c",
    "an end of a group": lambda data: data + b"\x3c",
    "a length over the end": lambda data: data + b"\x32\x7f",
    "a negative length": lambda data: data + b"\x32" + b"\xff" * 9 + b"\x01",
    "a number longer than need be": lambda data: data + b"\x28\x81\x00",
    "a number over 64 bits": lambda data: data + b"\x28" + b"\xff" * 9 + b"\x7f",
    "a number of eleven bytes": lambda data: data + b"\x28" + b"\xff" * 10 + b"\x01",
    "a tag longer than need be": lambda data: data + b"\xa8\x00\x01",
    "field number zero": lambda data: data + b"\x00\x00",
    "a rest": lambda data: data + b"\x28",
    "an end too early": lambda data: data[:-1],
    "nothing": lambda data: b"",
    "text": lambda data: b"no graph",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_readers_may_take_differently_is_refused(tiny_bundle: Bundle, name: str) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx .*do not use this bundle"):
        check(AMBIGUOUS[name](tiny_bundle.model()))


def test_any_bytes_are_admitted_or_refused_in_a_sentence(tiny_bundle: Bundle) -> None:
    """Nothing else is raised, whatever is changed, cut out or put in."""
    data, rng = tiny_bundle.model(), random.Random(0)  # noqa: S311 - no secret
    places = structure(data)
    admitted = 0
    for _ in range(1500):
        try:
            check(mutated(data, places, rng))
            admitted += 1
        except BundleError:
            pass
    assert 0 < admitted < 1500  # a changed letter of a name is fine, most else is not


def structure(data: bytes) -> list[int]:
    """Where a graph's bytes are no weights, nearly: random places would all but always be in weights."""
    weights = [tensor.raw_data for tensor in onnx.load_from_string(data).graph.initializer if len(tensor.raw_data) > 64]
    spans = []
    position = 0
    for raw in weights:
        start = data.index(raw, position)
        spans.append((start, start + len(raw)))
        position = start + len(raw)
    starts = [0, *(end for _, end in spans)]
    ends = [*(start for start, _ in spans), len(data)]
    return [place for start, end in zip(starts, ends, strict=True) for place in range(start, end)]


def mutated(data: bytes, places: list[int], rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.choice(places)
        match rng.randrange(4):
            case 0:
                changed[place % len(changed)] = rng.randrange(256)
            case 1:
                changed[place % len(changed)] ^= 1 << rng.randrange(8)
            case 2:
                del changed[place : place + rng.choice((1, 2, 8))]
            case _:
                source = rng.choice(places)
                length = rng.choice((1, 4, 30))
                changed[place:place] = data[source : source + length]
    return bytes(changed)


def test_it_takes_less_time_than_the_hash_of_a_few_files(tiny_bundle: Bundle) -> None:
    data = tiny_bundle.model()
    start = time.thread_time()
    check(data)
    assert time.thread_time() - start < 1  # some milliseconds

"""ncnn's text and weights: what each key means in the graph that is checked, and that nothing else is let through."""

from __future__ import annotations

from typing import Any

import pytest

from ghostzoo.network import ncnn_param
from ghostzoo.network.graph_file import Graph, Node
from ghostzoo.network.ncnn_param import check_ncnn
from ghostzoo.network.wire import RefusedGraphError

LAYERS = """7767517
13 14
Input in0 0 1 in0
Convolution stem 1 1 in0 a 0=8 1=3 11=5 2=1 12=2 3=2 13=4 4=1 14=3 15=0 16=2 5=1 6=360 9=1
ConvolutionDepthWise deep 1 1 a b 0=8 1=3 4=1 6=72 7=8
ReLU relu 1 1 b c
Split two 1 2 c d e
Concat joined 2 1 d e f 0=0
Interp larger 1 1 f g 0=1 1=2.0 2=3.00 6=0
BinaryOp sum 2 1 g g h 0=0
BinaryOp product 2 1 h h i 0=2
Pooling mean 1 1 i j 0=1 4=1
Convolution wide 1 1 j k 0=1280 1=1 5=1 6=20480 9=3 -23310=2,0.5,-1
Reshape flat 1 1 k out1 12=0 13=0 6="1,1,//(1280,0n),0n"
InnerProduct fc 1 1 out1 out0 0=7 1=1 2=8960
"""
WEIGHTS = b"".join(bytes(4 * (1 + count)) for count in (360 + 8, 72, 20480 + 1280, 8960 + 7))
SIZE: dict[str, int] = {"num_classes": 7, "image_size": 64}


def test_each_key_has_its_place_in_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Graph] = []
    monkeypatch.setattr(ncnn_param, "check_network", lambda graph, **_: seen.append(graph))
    check_ncnn(LAYERS.encode(), WEIGHTS, **SIZE)
    (graph,) = seen
    nodes = {node.outputs[0]: node for node in graph.nodes}
    stem: dict[str, Any] = {"kernel_shape": (5, 3), "dilations": (2, 1), "strides": (4, 2), "pads": (3, 1, 2, 0)}
    deep: dict[str, Any] = {"kernel_shape": (3, 3), "dilations": (1, 1), "strides": (1, 1), "pads": (1, 1, 1, 1)}
    assert nodes["a"] == Node("stem", "Conv", ("pixel_values", "stem weight"), ("a",), stem | {"group": 1})
    assert nodes["b"] == Node("deep", "Conv", ("a", "deep weight"), ("b",), deep | {"group": 8})
    assert nodes["f"] == Node("joined", "Concat", ("d", "e"), ("f",), {"axis": 1})
    assert nodes["g"].inputs == ("f", "", "larger scales")
    assert nodes["out1"] == Node("flat", "Conv", ("k", "flat channels"), ("out1",), {"group": 1280})
    operators = {name: nodes[name].operator for name in "cdeghij"} | {"out0": nodes["out0"].operator}
    assert list(operators.values()) == ["Relu", "Relu", "Relu", "Resize", "Add", "Mul", "GlobalAveragePool", "Conv"]
    weights = {weight.name: (weight.shape, weight.floats) for weight in graph.weights}
    assert weights == {
        "stem weight": ((8, 3, 5, 3), None),
        "deep weight": ((8, 1, 3, 3), None),
        "larger scales": ((4,), (1.0, 1.0, 2.0, 3.0)),
        "wide weight": ((1280, 16, 1, 1), None),
        "flat channels": ((1280, 1, 1, 1), None),
        "fc weight": ((7, 1280, 1, 1), None),
    }
    assert [(value.name, value.shape) for value in graph.inputs] == [("pixel_values", ("batch", 3, 64, 64))]
    assert [value.shape for value in graph.outputs] == [("batch", 7), ("batch", 1280)]


def test_a_network_comes_out_as_it_was_read() -> None:
    smaller = LAYERS.replace("12=2 3=2 13=4 4=1 14=3 15=0 16=2", "12=1 3=2 13=2 4=1 14=2 15=1 16=2").encode()
    assert check_ncnn(smaller.replace(b" 1 1 ", b"   1 1  ") + b"\n\n", WEIGHTS, **SIZE) == smaller


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("7767517", "7767518"),
        ("13 14", "13 14 1"),
        ("Input in0 0 1 in0", "Input in0 0 1 in1"),
        ("Input in0 0 1 in0", "Input in0 1 1 in0 in0"),
        ("ReLU relu 1 1 b c", "ReLU relu 1 2 b c z"),
        ("ReLU relu 1 1 b c", "ReLU relu 0 1 c"),
        ("ReLU relu 1 1 b c", "ReLU relu 1 1 b"),
        ("ReLU relu 1 1 b c", "ReLU relu 1"),
        ("ReLU relu 1 1 b c", "ReLU re/lu 1 1 b c"),
        ("ReLU relu 1 1 b c", "ReLU relu 1 1 b c 0=1"),
        ("ReLU relu 1 1 b c", "Noop relu 1 1 b c"),
        ("ReLU relu 1 1 b c", f"ReLU relu 65 1 {'b ' * 65}c"),
        ("0=8 1=3 11=5", "0=8 0=8 1=3 11=5"),
        ("0=8 1=3 11=5", "0=8 8=1 1=3 11=5"),
        ("0=8 1=3 11=5", "0=8 1=-3 11=5"),
        ("5=1 6=360", "5=2 6=360"),
        ("5=1 6=360", "5=1 7=3 6=360"),
        ("5=1 6=360", "5=1 6=361"),
        ("9=3 -23310=2,0.5,-1", "9=2 -23310=2,0.5,-1"),
        ("9=3 -23310=2,0.5,-1", "9=3 -23310=4,0.5,-1,1,1"),
        ("0=8 1=3 4=1 6=72 7=8", "0=0 1=3 4=1 6=72 7=8"),
        ("e f 0=0", "e f 0=1"),
        ("0=1 1=2.0", "0=2 1=2.0"),
        ("0=1 1=2.0", "0=1 1=0.5"),
        ("3.00 6=0", "3.00 6=1"),
        ("g g h 0=0", "g g h 0=1"),
        ("0=1 4=1", "0=0 4=1"),
        ("0=1 4=1", "0=1 4=0"),
        ("12=0 13=0", "12=1 13=0"),
        ("12=0 13=0", "12=0 13=1"),
        ('"1,1,//(1280,0n),0n"', '"1,1,1280,0n"'),
        ("0=7 1=1 2=8960", "0=7 1=2 2=8960"),
        ("0=7 1=1 2=8960", "0=7 1=0 2=8960"),
    ],
)
def test_what_pnnx_does_not_write_is_refused(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the reader of the text: the check of the graph is left out."""
    monkeypatch.setattr(ncnn_param, "check_network", lambda *_, **__: None)
    changed = LAYERS.replace(old, new, 1)
    assert changed != LAYERS
    with pytest.raises(RefusedGraphError):
        check_ncnn(changed.encode(), WEIGHTS, **SIZE)


@pytest.mark.parametrize("weights", [WEIGHTS[:-4], WEIGHTS + bytes(4), WEIGHTS[:1476] + b"\1" + WEIGHTS[1477:]])
def test_weights_of_another_network_are_refused(weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncnn_param, "check_network", lambda *_, **__: None)
    check_ncnn(LAYERS.encode(), WEIGHTS, **SIZE)
    with pytest.raises(RefusedGraphError, match="weights"):
        check_ncnn(LAYERS.encode(), weights, **SIZE)


def test_a_text_of_many_bytes_is_not_read() -> None:
    with pytest.raises(RefusedGraphError, match="more than the 1048576 that are read"):
        check_ncnn(b" " * (2**20 + 1), b"", **SIZE)
    with pytest.raises(RefusedGraphError, match="another format"):
        check_ncnn(LAYERS.encode() + b"ReLU relu 1 1 b c\n" * 5000, b"", **SIZE)

"""What each operator gives for what it takes, and all that it refuses; shapes begin with N where they hold images."""

from __future__ import annotations

from typing import Any

import onnx.helper
import onnxruntime
import pytest

from ghostzoo.network.operators import BATCH, MAX_SIDE, OPERATORS, Operand
from ghostzoo.network.wire import RefusedGraphError

N = BATCH


def operand(*shape: int) -> Operand:
    return Operand(shape)


def infer(name: str, *operands: Operand | None, **attributes: Any) -> tuple[int, ...]:
    return OPERATORS[name].infer(operands, attributes)


IMAGE = operand(N, 6, 20, 30)
SCALES = Operand((4,), (1.0, 1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("left", "right", "result"),
    [
        ((N, 6, 5, 4), (N, 6, 5, 4), (N, 6, 5, 4)),
        ((N, 6, 5, 4), (N, 6, 1, 1), (N, 6, 5, 4)),
        ((N, 1, 5, 4), (N, 6, 1, 4), (N, 6, 5, 4)),
        ((6, 1, 1), (N, 6, 5, 4), (N, 6, 5, 4)),
        ((N, 6, 5, 4), (4,), (N, 6, 5, 4)),
        ((), (N, 6), (N, 6)),
        ((1, 6), (N, 6), (N, 6)),
    ],
)
@pytest.mark.parametrize("name", ["Add", "Mul"])
def test_shapes_are_spread_as_numpy_does(
    name: str, left: tuple[int, ...], right: tuple[int, ...], result: tuple[int, ...]
) -> None:
    assert infer(name, Operand(left), Operand(right)) == result
    assert infer(name, Operand(right), Operand(left)) == result


@pytest.mark.parametrize(("left", "right"), [((N, 6), (N, 5)), ((2, 6), (N, 6)), ((N, 6, 2), (N, 6))])
def test_shapes_that_do_not_go_together_are_refused(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    with pytest.raises(RefusedGraphError, match="shapes that do not go together"):
        infer("Add", Operand(left), Operand(right))


def test_channels_are_joined_and_nothing_else() -> None:
    assert infer("Concat", IMAGE, operand(N, 4, 20, 30), axis=1) == (N, 10, 20, 30)
    assert infer("Concat", IMAGE, axis=1) == (N, 6, 20, 30)
    assert infer("Concat", operand(N, 6), operand(N, 4), axis=1) == (N, 10)
    for operands, axis in (
        ([IMAGE, IMAGE], 2),
        ([IMAGE, operand(N, 4, 20, 31)], 1),
        ([IMAGE, operand(N, 4, 21, 30)], 1),
        ([IMAGE, operand(2, 4, 20, 30)], 1),
        ([operand(N), operand(N)], 1),
    ):
        with pytest.raises(RefusedGraphError, match="other than by channels"):
            infer("Concat", *operands, axis=axis)
    with pytest.raises(RefusedGraphError, match="other than by channels"):
        infer("Concat", IMAGE, IMAGE)


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        ((8, 6, 1, 1), {}),
        ((8, 6, 3, 5), {"pads": (1, 2, 1, 2)}),
        ((8, 6, 3, 3), {"strides": (2, 3), "pads": (1, 1, 1, 1)}),
        ((8, 6, 3, 3), {"dilations": (2, 4), "pads": (0, 1, 2, 3)}),
        ((6, 1, 5, 5), {"group": 6, "pads": (2, 2, 2, 2), "kernel_shape": (5, 5)}),
        ((9, 2, 3, 3), {"group": 3}),
        ((8, 6, 20, 30), {}),
    ],
)
def test_convolutions_give_the_shape_that_the_engine_gives(weight: tuple[int, ...], attributes: dict[str, Any]) -> None:
    found = infer("Conv", IMAGE, Operand(weight), Operand(weight[:1]), **attributes)
    value = onnx.helper.make_tensor_value_info
    float32 = onnx.TensorProto.FLOAT
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    graph = onnx.helper.make_graph(
        [node], "conv", [value("x", float32, [2, 6, 20, 30]), value("w", float32, weight)], [value("y", float32, None)]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(
        onnx.shape_inference.infer_shapes(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert found == (N, *session.get_outputs()[0].shape[1:])


@pytest.mark.parametrize(
    ("weight", "bias", "attributes", "message"),
    [
        (None, None, {}, "without a weight of its own"),
        ((N, 6, 1, 1), None, {}, "without a weight of its own"),
        ((8, 6, 1), None, {}, "without a weight of its own"),
        ((8, 6, 3, 3), (7,), {}, "do not go together"),
        ((8, 6, 3, 3), (8, 1), {}, "do not go together"),
        ((8, 6, 3, 3), None, {"kernel_shape": (3, 1)}, "do not go together"),
        ((8, 6, 3, 3), None, {"strides": (1,)}, "do not go together"),
        ((8, 6, 3, 3), None, {"dilations": (1, 1, 1)}, "do not go together"),
        ((8, 6, 3, 3), None, {"pads": (1, 1)}, "do not go together"),
        ((8, 5, 3, 3), None, {}, "does not fit its input's channels"),
        ((8, 6, 3, 3), None, {"group": 0}, "does not fit its input's channels"),
        ((8, 3, 3, 3), None, {"group": 3}, "does not fit its input's channels"),
        ((8, 2, 3, 3), None, {"group": 3}, "does not fit its input's channels"),
        ((8, 6, 3, 3), None, {"strides": (0, 1)}, "impossible strides"),
        ((8, 6, 3, 3), None, {"strides": (1, MAX_SIDE + 1)}, "impossible strides"),
        ((8, 6, 3, 3), None, {"dilations": (1, 0)}, "impossible strides"),
        ((8, 6, 3, 3), None, {"pads": (-1, 0, 0, 0)}, "impossible strides"),
        ((8, 6, 3, 3), None, {"pads": (0, 0, -1, 0)}, "impossible strides"),
        ((8, 6, 3, 3), None, {"pads": (3, 0, 0, 0)}, "impossible strides"),
        ((8, 6, 3, 3), None, {"pads": (0, 0, 0, 3)}, "impossible strides"),
        ((8, 6, 21, 3), None, {}, "larger than its input"),
        ((8, 6, 3, 31), None, {}, "larger than its input"),
    ],
)
def test_a_convolution_that_does_not_fit_is_refused(
    weight: tuple[int, ...] | None, bias: tuple[int, ...] | None, attributes: dict[str, Any], message: str
) -> None:
    operands = [IMAGE, None if weight is None else Operand(weight)] + ([Operand(bias)] if bias else [])
    with pytest.raises(RefusedGraphError, match=message):
        infer("Conv", *operands, **attributes)


def test_what_works_on_images_takes_nothing_else() -> None:
    for shape in ((6, 6, 20, 30), (N, 6, 20), (N, 6), ()):
        for name, more in (("Conv", operand(8, 6, 1, 1)), ("GlobalAveragePool", None), ("Flatten", None)):
            with pytest.raises(RefusedGraphError, match="what is not a batch of images"):
                infer(name, Operand(shape), more)
    for name in ("Relu", "GlobalAveragePool", "Flatten", "Cast", "Clip"):
        with pytest.raises(RefusedGraphError, match="without its input"):
            infer(name, None, to=1)


def test_shapes_of_the_simple_ones() -> None:
    assert infer("Relu", IMAGE) == IMAGE.shape
    assert infer("GlobalAveragePool", IMAGE) == (N, 6, 1, 1)
    assert infer("Flatten", IMAGE) == infer("Flatten", IMAGE, axis=1) == (N, 3600)
    assert infer("Clip", IMAGE, operand(), operand(1)) == infer("Clip", IMAGE, None, operand()) == IMAGE.shape
    assert infer("Cast", IMAGE, to=1) == infer("Cast", IMAGE, to=10) == IMAGE.shape
    assert infer("Resize", IMAGE, None, SCALES) == infer("Resize", IMAGE, None, SCALES, mode="nearest")
    assert infer("Resize", IMAGE, None, SCALES) == (N, 6, 40, 90)
    assert infer("Resize", IMAGE, None, Operand((4,), (1.0, 1.0, 2.05005, 1.51))) == (N, 6, 41, 45)
    assert infer("Resize", IMAGE, None, Operand((4,), (1.0, 1.0, 1.375, 1.25))) == (N, 6, 27, 37)
    assert infer("AveragePool", IMAGE, kernel_shape=(2, 2), strides=(2, 2)) == (N, 6, 10, 15)
    assert infer("Sigmoid", IMAGE) == IMAGE.shape


@pytest.mark.parametrize(
    ("name", "operands", "attributes", "message"),
    [
        ("Flatten", [IMAGE], {"axis": 2}, "into one row"),
        ("Flatten", [IMAGE], {"axis": 0}, "into one row"),
        ("Clip", [IMAGE, operand(2)], {}, "not single numbers"),
        ("Clip", [IMAGE, None, operand(1, 1)], {}, "not single numbers"),
        ("Cast", [IMAGE], {"to": 11}, "another type"),
        ("Cast", [IMAGE], {}, "another type"),
        ("Resize", [IMAGE, operand(4), SCALES], {}, "by two factors"),
        ("Resize", [IMAGE, None, None], {}, "by two factors"),
        ("Resize", [IMAGE, None, operand(4)], {}, "by two factors"),
        ("Resize", [IMAGE, None, Operand((3,), (1.0, 1.0, 2.0))], {}, "by two factors"),
        ("Resize", [IMAGE, None, Operand((4,), (2.0, 1.0, 2.0, 2.0))], {}, "by two factors"),
        ("Resize", [IMAGE, None, Operand((4,), (1.0, 2.0, 2.0, 2.0))], {}, "by two factors"),
        (
            "Resize",
            [IMAGE, None, Operand((4,), (1.0, 1.0, 1.35 * (1 + 1e-8), 2.0))],
            {},
            "one size or another",
        ),
        ("Resize", [IMAGE, None, Operand((4,), (1.0, 1.0, 2.0, 0.0))], {}, "below 1"),
        ("Resize", [IMAGE, None, Operand((4,), (1.0, 1.0, MAX_SIDE + 1.0, 1.0))], {}, "below 1"),
        ("Resize", [IMAGE, None, SCALES], {"mode": "cubic"}, "nearest pixel"),
        ("AveragePool", [IMAGE], {"kernel_shape": (3, 3), "strides": (2, 2)}, "over 2 x 2"),
        ("AveragePool", [IMAGE], {"kernel_shape": (2, 2), "strides": (1, 1)}, "over 2 x 2"),
        ("AveragePool", [operand(N, 4, 1, 8)], {"kernel_shape": (2, 2), "strides": (2, 2)}, "over 2 x 2"),
        ("QuantizeLinear", [IMAGE, None], {}, "do not go together"),
        ("QuantizeLinear", [IMAGE, operand(), None], {}, "do not go together"),
        ("QuantizeLinear", [IMAGE, operand(), operand(1)], {}, "do not go together"),
        ("QuantizeLinear", [IMAGE, operand(5)], {}, "do not go together"),
        ("QuantizeLinear", [IMAGE, operand(6)], {"axis": 2}, "do not go together"),
        ("QuantizeLinear", [IMAGE, operand(20)], {"axis": -2}, "do not go together"),
        ("QuantizeLinear", [operand(N, N), operand(N)], {}, "depend on the image"),
    ],
)
def test_what_an_operator_does_not_take_is_refused(
    name: str, operands: list[Operand | None], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RefusedGraphError, match=message):
        infer(name, *operands, **attributes)


@pytest.mark.parametrize("name", ["QuantizeLinear", "DequantizeLinear"])
def test_scales_are_one_number_or_one_a_channel(name: str) -> None:
    assert infer(name, IMAGE, operand(), operand()) == IMAGE.shape
    assert infer(name, IMAGE, operand(1)) == IMAGE.shape
    assert infer(name, IMAGE, operand(6), operand(6)) == IMAGE.shape
    assert infer(name, IMAGE, operand(20), operand(20), axis=2) == IMAGE.shape


def test_the_list_of_operators_is_short() -> None:
    assert {name: (each.least, each.most) for name, each in OPERATORS.items()} == {
        "Add": (2, 2), "AveragePool": (1, 1), "Cast": (1, 1), "Clip": (1, 3), "Concat": (1, 64), "Conv": (2, 3),
        "DequantizeLinear": (2, 3), "Flatten": (1, 1), "GlobalAveragePool": (1, 1),
        "Mul": (2, 2), "QuantizeLinear": (2, 3), "Relu": (1, 1),
        "Resize": (3, 3), "Sigmoid": (1, 1),
    }  # fmt: skip

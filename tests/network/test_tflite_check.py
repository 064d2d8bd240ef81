"""LiteRT's file is read as data before LiteRT maps it."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from exporters.quantize import PLANS, to_int8
from ghostzoo.bundle.folder import Bundle
from ghostzoo.converter import convert
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.flatbuffer import Field, FlatBuffer, Kind
from ghostzoo.network.tflite_check import check_tflite
from ghostzoo.network.wire import RefusedGraphError
from ghostzoo.weights.safetensors import dump_safetensors
from tests.fixtures.networks import random_arrays

schema = pytest.importorskip(
    "ai_edge_litert.schema_py_generated", reason="LiteRT is an extra, which is not installed here"
)


@pytest.fixture(scope="module")
def network(tiny_bundle: Bundle) -> bytes:
    from exporters.to_litert import convert as to_litert

    (data,) = to_litert(tiny_bundle).values()
    return data


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A network with what GhostNetV2 has besides."""
    from exporters.to_litert import convert as to_litert

    folder = tmp_path_factory.mktemp("attention")
    arrays = random_arrays(Architecture.named("ghostnetv2_025", 7))
    (folder / "model.safetensors").write_bytes(dump_safetensors(arrays))
    labels = list("abcdefg")
    bundle = convert(
        folder / "model.safetensors", folder / "bundle", name="ghostnetv2_025", labels=labels, crop_size=64
    )
    (data,) = to_litert(bundle).values()
    return data


@pytest.fixture(scope="module", params=[plan.name for plan in PLANS])
def in_int8(request: pytest.FixtureRequest, tiny_bundle: Bundle) -> bytes:
    """A network with int8 weights, part of which computes in int8."""
    from exporters.to_litert import convert_graph

    (plan,) = (plan for plan in PLANS if plan.name == request.param)
    pixels = np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype(np.float32)
    return convert_graph(tiny_bundle, to_int8(tiny_bundle.model(), plan, lambda: iter([pixels])))


@pytest.fixture(scope="module")
def unchanged(network: bytes) -> bytes:
    """The network as the changes below are written."""
    return packed(schema.ModelT.InitFromPackedBuf(network))


def check(data: bytes) -> None:
    check_tflite(data, num_classes=7, image_size=64)


def packed(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operators(model: Any, name: str) -> list[Any]:
    code = getattr(schema.BuiltinOperator, name)
    graph = model.subgraphs[0]
    return [item for item in graph.operators if model.operatorCodes[item.opcodeIndex].builtinCode == code]


def operator(model: Any, name: str) -> Any:
    return operators(model, name)[0]


def tensor(model: Any, number: int) -> Any:
    return model.subgraphs[0].tensors[number]


def constant(model: Any, number: int) -> Any:
    return model.buffers[tensor(model, number).buffer]


def set_values(model: Any, number: int, values: list[int]) -> None:
    constant(model, number).data = np.frombuffer(np.array(values, np.int32).tobytes(), np.uint8)


def replace(item: Any, **values: object) -> None:
    for name, value in values.items():
        assert hasattr(item, name)
        setattr(item, name, value)


def _share_values(model: Any) -> None:
    """Weights of the same shape, read from the same place: memory that the file does not have."""
    convolution = operator(model, "CONV_2D")
    weight = tensor(model, convolution.inputs[1])
    model.subgraphs[0].tensors.append(
        schema.TensorT(shape=weight.shape, type=weight.type, buffer=weight.buffer, name=b"b")
    )


def _swap_first_operators(model: Any) -> None:
    operators = model.subgraphs[0].operators
    operators[0], operators[1] = operators[1], operators[0]


def _pad_before_computed(model: Any) -> None:
    """A padding that reads a tensor of a later operator: memory that nobody wrote."""
    graph = model.subgraphs[0]
    paddings = [item for item in graph.operators if item.opcodeIndex == operator(model, "PAD").opcodeIndex]
    graph.operators.remove(paddings[1])
    graph.operators.insert(0, paddings[1])


def _pad_twice(model: Any) -> None:
    """Two paddings of one tensor, each with amounts of its own, into the same memory."""
    graph, padding = model.subgraphs[0], operator(model, "PAD")
    amounts = tensor(model, padding.inputs[1])
    model.buffers.append(schema.BufferT(data=constant(model, padding.inputs[1]).data))
    graph.tensors.append(
        schema.TensorT(shape=amounts.shape, type=amounts.type, buffer=len(model.buffers) - 1, name=b"again")
    )
    again = schema.OperatorT(
        opcodeIndex=padding.opcodeIndex,
        inputs=[padding.inputs[0], len(graph.tensors) - 1],
        outputs=padding.outputs,
        builtinOptionsType=padding.builtinOptionsType,
        builtinOptions=padding.builtinOptions,
    )
    graph.operators.insert(graph.operators.index(padding), again)


def _use_weights_twice(model: Any) -> None:
    code = operator(model, "CONV_2D").opcodeIndex
    by_shape: dict[tuple[int, ...], Any] = {}
    for item in model.subgraphs[0].operators:
        shape = tuple(tensor(model, item.inputs[1]).shape) if item.opcodeIndex == code else ()
        if shape in by_shape and shape:
            item.inputs = [item.inputs[0], by_shape[shape].inputs[1], item.inputs[2]]
            return
        by_shape[shape] = item
    raise AssertionError("no two convolutions have weights of one shape")


CHANGES: dict[str, Callable[[Any], object]] = {
    "another operator": lambda m: replace(m.operatorCodes[0], builtinCode=126, deprecatedBuiltinCode=126),
    "two codes of one operator": lambda m: replace(m.operatorCodes[0], deprecatedBuiltinCode=126),
    "custom operator": lambda m: replace(m.operatorCodes[0], customCode=b"Custom"),
    "unknown opcode": lambda m: replace(operator(m, "PAD"), opcodeIndex=99),
    "another input": lambda m: replace(m.subgraphs[0], inputs=[m.subgraphs[0].outputs[0]]),
    "constant input": lambda m: replace(tensor(m, m.subgraphs[0].inputs[0]), buffer=len(m.buffers) - 1),
    "tensor out of range": lambda m: replace(operator(m, "MUL"), inputs=[0, 10**6]),
    "negative tensor": lambda m: replace(operator(m, "CONV_2D"), inputs=[-1, *operator(m, "CONV_2D").inputs[1:]]),
    "missing bias": lambda m: replace(operator(m, "CONV_2D"), inputs=list(operator(m, "CONV_2D").inputs[:2])),
    "output into a constant": lambda m: replace(operator(m, "ADD"), outputs=[operator(m, "CONV_2D").inputs[1]]),
    "output into the input": lambda m: replace(operator(m, "ADD"), outputs=[m.subgraphs[0].inputs[0]]),
    "padding into the input": lambda m: replace(operator(m, "PAD"), outputs=[m.subgraphs[0].inputs[0]]),
    "operators in another order": _swap_first_operators,
    "padding of what is not computed": _pad_before_computed,
    "huge tensor": lambda m: replace(tensor(m, operator(m, "ADD").outputs[0]), shape=[1, 30000, 30000, 16]),
    "tensor of no size": lambda m: replace(tensor(m, operator(m, "ADD").outputs[0]), shape=[1, 0, 16, 16]),
    "negative size": lambda m: replace(tensor(m, operator(m, "ADD").outputs[0]), shape=[1, -4, 16, 16]),
    "integer tensor": lambda m: replace(tensor(m, operator(m, "ADD").outputs[0]), type=2),
    "text tensor": lambda m: replace(tensor(m, operator(m, "ADD").outputs[0]), type=5),
    "variable tensor": lambda m: replace(tensor(m, operator(m, "ADD").outputs[0]), isVariable=True),
    "free size": lambda m: replace(tensor(m, operator(m, "ADD").outputs[0]), shapeSignature=[-1, 8, 8, 16]),
    "buffer out of range": lambda m: replace(tensor(m, 0), buffer=10**6),
    "external buffer": lambda m: replace(constant(m, operator(m, "MEAN").inputs[1]), offset=64, size=8),
    "shared values": _share_values,
    "weights of two convolutions": _use_weights_twice,
    "two paddings into one tensor": _pad_twice,
    "short weights": lambda m: replace(constant(m, operator(m, "CONV_2D").inputs[1]), data=np.zeros(8, np.uint8)),
    "huge padding": lambda m: set_values(m, operator(m, "PAD").inputs[1], [0, 0, *[10**5] * 4, 0, 0]),
    "negative padding": lambda m: set_values(m, operator(m, "PAD").inputs[1], [0, 0, *[-1] * 4, 0, 0]),
    "padded batch": lambda m: set_values(m, operator(m, "PAD").inputs[1], [1, 1, 1, 1, 1, 1, 0, 0]),
    "mean of the batch": lambda m: set_values(m, operator(m, "MEAN").inputs[1], [0, 1]),
    "mean without its sides": lambda m: replace(operator(m, "MEAN").builtinOptions, keepDims=False),
    "reshaped batch": lambda m: set_values(m, operator(m, "RESHAPE").inputs[1], [7, -1]),
    "another reshape": lambda m: replace(operator(m, "RESHAPE").builtinOptions, newShape=[1, -1]),
    "joined images": lambda m: replace(operator(m, "CONCATENATION").builtinOptions, axis=0),
    "no stride down": lambda m: replace(operators(m, "CONV_2D")[1].builtinOptions, strideH=0),
    "no stride across": lambda m: replace(operators(m, "CONV_2D")[1].builtinOptions, strideW=0),
    "dilation": lambda m: replace(operator(m, "CONV_2D").builtinOptions, dilationHFactor=2),
    "another activation": lambda m: replace(operator(m, "CONV_2D").builtinOptions, fusedActivationFunction=3),
    "depth multiplier": lambda m: replace(operator(m, "DEPTHWISE_CONV_2D").builtinOptions, depthMultiplier=2),
    "options of another": lambda m: replace(
        operator(m, "MUL"), builtinOptionsType=22, builtinOptions=schema.PadOptionsT()
    ),
    "custom options": lambda m: replace(operator(m, "MUL"), customOptions=[1, 2, 3]),
    "two networks": lambda m: m.subgraphs.append(m.subgraphs[0]),
    "metadata": lambda m: replace(m, metadata=[schema.MetadataT(name=b"a", buffer=0)]),
    "signature of another tensor": lambda m: replace(m.signatureDefs[0].inputs[0], tensorIndex=10**6),
    "signature of another network": lambda m: replace(m.signatureDefs[0], subgraphIndex=1),
    "another version": lambda m: replace(m, version=4),
    "name with control characters": lambda m: replace(tensor(m, 5), name=b"\x1b[2J"),
    "long name": lambda m: replace(tensor(m, 5), name=b"a" * 300),
}


def test_what_the_converter_writes_is_admitted(network: bytes, unchanged: bytes) -> None:
    check(network)
    check(unchanged)


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_ghostnet_does_not_need_is_refused(network: bytes, unchanged: bytes, name: str) -> None:
    model = schema.ModelT.InitFromPackedBuf(network)
    CHANGES[name](model)
    data = packed(model)
    assert data != unchanged
    with pytest.raises(RefusedGraphError):
        check(data)


OF_ATTENTION: dict[str, Callable[[Any], object]] = {
    "mean of more pixels": lambda m: replace(operator(m, "AVERAGE_POOL_2D").builtinOptions, filterHeight=3),
    "mean at each pixel": lambda m: replace(operator(m, "AVERAGE_POOL_2D").builtinOptions, strideW=1),
    "padded mean": lambda m: replace(operator(m, "AVERAGE_POOL_2D").builtinOptions, padding=0),
    "mean and an activation": lambda m: replace(
        operator(m, "AVERAGE_POOL_2D").builtinOptions, fusedActivationFunction=1
    ),
    "huge gates": lambda m: set_values(m, operator(m, "RESIZE_NEAREST_NEIGHBOR").inputs[1], [10**5, 10**5]),
    "gates of no size": lambda m: set_values(m, operator(m, "RESIZE_NEAREST_NEIGHBOR").inputs[1], [0, 0]),
    "gates of other pixels": lambda m: replace(
        operator(m, "RESIZE_NEAREST_NEIGHBOR").builtinOptions, halfPixelCenters=True
    ),
    "sigmoid of the row": lambda m: replace(operator(m, "LOGISTIC"), inputs=[m.subgraphs[0].outputs[0]]),
}


@pytest.mark.parametrize("name", OF_ATTENTION)
def test_what_attention_does_not_need_is_refused(attention: bytes, name: str) -> None:
    check(attention)
    model = schema.ModelT.InitFromPackedBuf(attention)
    OF_ATTENTION[name](model)
    with pytest.raises(RefusedGraphError):
        check(packed(model))


def scales(model: Any, name: str, *, operand: int | None = None) -> Any:
    """How an operand of the operator is quantised, or its output."""
    found = int8_operator(model, name)
    return tensor(model, found.outputs[0] if operand is None else found.inputs[operand]).quantization


def int8_operator(model: Any, name: str) -> Any:
    """The first of these operators that computes in int8."""
    return next(item for item in operators(model, name) if tensor(model, item.outputs[0]).type == 9)


def float32_convolution(model: Any) -> Any:
    return next(item for item in operators(model, "CONV_2D") if tensor(model, item.outputs[0]).type == 0)


OF_INT8: dict[str, Callable[[Any], object]] = {
    "no scale": lambda m: replace(tensor(m, int8_operator(m, "CONV_2D").outputs[0]), quantization=None),
    "two scales of an image": lambda m: replace(scales(m, "ADD"), scale=[0.1, 0.1], zeroPoint=[0, 0]),
    "scales without zero points": lambda m: replace(scales(m, "ADD"), zeroPoint=[]),
    "too few scales": lambda m: replace(scales(m, "CONV_2D", operand=1), scale=[0.1], zeroPoint=[0]),
    "scales of no axis": lambda m: replace(scales(m, "CONV_2D", operand=1), quantizedDimension=9),
    "scales of a negative axis": lambda m: replace(scales(m, "CONV_2D", operand=1), quantizedDimension=-1),
    "biases without scales": lambda m: replace(
        tensor(m, int8_operator(m, "DEPTHWISE_CONV_2D").inputs[2]), quantization=None
    ),
    "scale of nothing": lambda m: replace(scales(m, "CONV_2D"), scale=[0.0]),
    "scale that has lost digits": lambda m: replace(scales(m, "CONV_2D"), scale=[2.0**-127]),
    "negative scale": lambda m: replace(scales(m, "CONV_2D"), scale=[-0.1]),
    "infinite scale": lambda m: replace(scales(m, "CONV_2D"), scale=[float("inf")]),
    "scale that is no number": lambda m: replace(scales(m, "CONV_2D"), scale=[float("nan")]),
    "sum of a tiny scale": lambda m: replace(scales(m, "ADD"), scale=[1e-9]),
    "zero beyond int8": lambda m: replace(scales(m, "QUANTIZE"), zeroPoint=[1000]),
    "weights with another zero": lambda m: replace(
        scales(m, "CONV_2D", operand=1), zeroPoint=np.full_like(scales(m, "CONV_2D", operand=1).zeroPoint, 5)
    ),
    "known ranges": lambda m: replace(scales(m, "CONV_2D"), min=[0.0], max=[1.0]),
    "scheme of its own": lambda m: replace(
        scales(m, "CONV_2D"), detailsType=1, details=schema.CustomQuantizationT(custom=[1, 2])
    ),
    "gates in int8": lambda m: replace(
        operator(m, "MUL"), inputs=[int8_operator(m, "CONV_2D").outputs[0], operator(m, "MUL").inputs[1]]
    ),
    "float32 from int8": lambda m: replace(
        float32_convolution(m), inputs=[int8_operator(m, "CONV_2D").outputs[0], *float32_convolution(m).inputs[1:]]
    ),
    "int8 from float32 weights": lambda m: replace(
        int8_operator(m, "CONV_2D"),
        inputs=[*int8_operator(m, "CONV_2D").inputs[:1], *float32_convolution(m).inputs[1:]],
    ),
    "quantised to float32": lambda m: replace(tensor(m, int8_operator(m, "QUANTIZE").outputs[0]), type=0),
    "widened to int8": lambda m: replace(tensor(m, operator(m, "DEQUANTIZE").outputs[0]), type=9),
    "weights widened to other sizes": lambda m: replace(tensor(m, operator(m, "DEQUANTIZE").outputs[0]), shape=[1, 9]),
    "logits in int8": lambda m: replace(
        tensor(m, m.subgraphs[0].outputs[0]),
        type=9,
        quantization=schema.QuantizationParametersT(scale=[0.1], zeroPoint=[0]),
    ),
}


@pytest.mark.parametrize("name", OF_INT8)
@pytest.mark.parametrize("in_int8", [PLANS[0].name], indirect=True)
def test_what_int8_does_not_need_is_refused(in_int8: bytes, name: str) -> None:
    model = schema.ModelT.InitFromPackedBuf(in_int8)
    check(packed(model))
    OF_INT8[name](model)
    with pytest.raises(RefusedGraphError):
        check(packed(model))


def test_weights_are_widened_for_one_convolution_each(in_int8: bytes) -> None:
    model = schema.ModelT.InitFromPackedBuf(in_int8)
    check(packed(model))
    widened = {item.outputs[0] for item in model.subgraphs[0].operators if tensor(model, item.inputs[0]).buffer}
    users = [item for item in model.subgraphs[0].operators if len(item.inputs) == 3 and item.inputs[1] in widened]
    by_shape = {tuple(tensor(model, item.inputs[1]).shape): item for item in users}
    other = next(item for item in users if by_shape[tuple(tensor(model, item.inputs[1]).shape)] is not item)
    again = by_shape[tuple(tensor(model, other.inputs[1]).shape)]
    again.inputs = [again.inputs[0], other.inputs[1], again.inputs[2]]
    with pytest.raises(RefusedGraphError, match="used twice"):
        check(packed(model))


def test_constants_in_the_same_place_are_refused(network: bytes) -> None:
    """Each has a buffer of its own, and all of these point to the largest: far more memory than the file has."""
    model = FlatBuffer(network)
    root = model.read(model.root(b"TFL3"), {4: Field("buffers", Kind.TABLES, 10**4), **OTHERS})
    spans = {}
    for position in root["buffers"]:
        found = model.read(position, {0: Field("data", Kind.SPAN)})
        if "data" in found:
            spans[position] = found["data"]
    start, _ = max(spans.values(), key=lambda span: span[1] - span[0])
    changed = bytearray(network)
    for position, (own, _) in spans.items():
        slot = next(at for at in range(position + 4, len(network), 4) if at + offset(network, at) == own - 4)
        if slot < start:
            changed[slot : slot + 4] = struct.pack("<I", start - 4 - slot)
    with pytest.raises(RefusedGraphError, match="share their values"):
        check(bytes(changed))


OTHERS = {
    **{0: Field("version", Kind.UINT), 1: Field("codes", Kind.TABLES, 99), 2: Field("graphs", Kind.TABLES, 9)},
    **{3: Field("description", Kind.TEXT), 7: Field("signatures", Kind.TABLES, 9)},
}


def offset(data: bytes, position: int) -> int:
    value: int = struct.unpack_from("<I", data, position)[0]
    return value


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\0\0\0\0TFL3", b"\xff" * 64, struct.pack("<I4sI", 8, b"TFL3", 2**31)])
def test_what_is_no_network_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedGraphError):
        check(data)


def test_another_size_or_class_count_is_refused(network: bytes) -> None:
    with pytest.raises(RefusedGraphError, match="gives logits of shape"):
        check_tflite(network, num_classes=8, image_size=64)
    with pytest.raises(RefusedGraphError, match="declares the tensor"):
        check_tflite(network, num_classes=7, image_size=96)


@pytest.mark.parametrize("in_int8", [PLANS[0].name], indirect=True)
def test_any_bytes_are_admitted_or_refused_in_a_sentence(network: bytes, in_int8: bytes) -> None:
    """Nothing else is raised, whatever is changed or cut off."""
    rng = random.Random(0)  # noqa: S311 - no secret
    admitted = refused = 0
    for data in [*mutants(network, rng, 500), *mutants(in_int8, rng, 500)]:
        try:
            check(data)
            admitted += 1
        except RefusedGraphError:
            refused += 1
    assert admitted > 0  # a changed letter of a name is fine, most else is not
    assert refused > admitted


def mutants(data: bytes, rng: random.Random, count: int) -> list[bytes]:
    """Changed files; nearly all changes are outside of weights, where random ones would not be."""
    places = structure(data)
    return [mutated(data, places, rng) for _ in range(count)]


def structure(data: bytes) -> list[int]:
    """Where a file's bytes are no weights."""
    model = schema.ModelT.InitFromPackedBuf(data)
    weights = bytearray(len(data))
    for buffer in model.buffers:
        if buffer.data is not None and len(buffer.data) > 64:
            start = data.index(bytes(buffer.data))
            weights[start : start + len(buffer.data)] = b"\1" * len(buffer.data)
    return [place for place, is_weight in enumerate(weights) if not is_weight]


def mutated(data: bytes, places: list[int], rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.choice(places)
        match rng.randrange(4):
            case 0:
                changed[place] = rng.randrange(256)
            case 1:
                changed[place] ^= 1 << rng.randrange(8)
            case 2:
                changed[place : place + 4] = struct.pack(
                    "<I", rng.choice((0, 1, 4, 2**16, 2**31 - 1, 2**31, 2**32 - 1))
                )
            case _:
                source = rng.choice(places)
                changed[place : place + 4] = data[source : source + 4]
    if rng.random() < 0.05:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed[: len(data)])

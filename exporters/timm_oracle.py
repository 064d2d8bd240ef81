"""The families whose weights timm publishes, as timm and PyTorch compute them."""

from __future__ import annotations

from exporters.routes import Subject, onnx_route
from exporters.timm_network import build_network, double_route, export_onnx, forward
from ghostzoo.weights.params import Weights

TIMM = "timm forward in float64"
TIMM_SINGLE = "timm forward"
TORCH_ONNX = "torch.onnx graph"

_LIBRARIES = ("timm", "torch", "onnxruntime")


def from_weights(weights: Weights, image_size: int) -> Subject:
    network = build_network(weights.arrays, weights.architecture)
    double = double_route(network)
    routes = {
        TIMM: lambda pixel_values: double(pixel_values)[0],
        TIMM_SINGLE: lambda pixel_values: forward(network, pixel_values)[0],
        TORCH_ONNX: onnx_route(export_onnx(network, image_size)),
    }
    return Subject(weights, TIMM, routes, lambda pixel_values: double(pixel_values)[1], _LIBRARIES)

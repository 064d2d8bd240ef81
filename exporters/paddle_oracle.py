"""PaddleClas's GhostNet, as Paddle and paddle2onnx compute it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters.paddle_archive import ProgramRoute, archive_to_onnx, read_archive, weights_of_archive
from exporters.paddle_network import PaddleGhostNet, build_network, forward
from exporters.paddle_to_onnx import export_with_paddle2onnx
from exporters.routes import Route, Subject, onnx_route
from ghostzoo.catalog import CatalogModel
from ghostzoo.errors import WeightsError
from ghostzoo.network.architecture import Architecture
from ghostzoo.weights.params import Weights

# The routes. Graphs are run by ONNX Runtime, an archive's program by Paddle Inference.
PADDLE = "Paddle forward"
PADDLE2ONNX = "paddle2onnx graph"
PROGRAM = "archive program"

_LIBRARIES = ("paddlepaddle", "paddle2onnx", "onnxruntime")


def from_weights(weights: Weights, image_size: int) -> Subject:
    network = build_network(weights.arrays, weights.architecture)
    raw = export_with_paddle2onnx(network, image_size)
    routes = {PADDLE: _paddle_route(network), PADDLE2ONNX: onnx_route(raw)}
    return Subject(weights, PADDLE, routes, lambda pixel_values: forward(network, pixel_values)[1], _LIBRARIES)


def from_archive(path: Path, record: CatalogModel | None) -> Subject:
    archive = read_archive(path)
    raw = archive_to_onnx(archive)
    weights = weights_of_archive(archive, raw)
    if record and Architecture.of(record.width, 1).channels != weights.architecture.channels:
        raise WeightsError(
            f"{path}: the weights are of width {weights.architecture.width:g}, those of {record.name} of "
            f"{record.width:g}; check the model name and the file."
        )
    network = build_network(weights.arrays, weights.architecture)
    program = ProgramRoute(archive)
    routes: dict[str, Route] = {PROGRAM: program, PADDLE: _paddle_route(network), PADDLE2ONNX: onnx_route(raw)}
    activation = program.activation

    def facts() -> Mapping[str, Any]:
        return {} if activation is None else {f"{activation}_difference": program.activation_difference}

    return Subject(
        weights,
        PROGRAM,
        routes,
        lambda pixel_values: forward(network, pixel_values)[1],
        _LIBRARIES,
        facts,
        activation,
    )


def _paddle_route(network: PaddleGhostNet) -> Route:
    return lambda pixel_values: forward(network, pixel_values)[0]

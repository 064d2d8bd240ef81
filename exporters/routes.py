"""The ways of running one and the same weights that a proof compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ghostzoo.network.families import PADDLE_GHOSTNET
from ghostzoo.weights.params import Weights

Route = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Pixel values (N, 3, H, W) -> logits (N, classes), both float32."""


@dataclass(frozen=True)
class Subject:
    """Weights, and how the original framework computes logits from them."""

    weights: Weights
    reference: str
    """The route that the others are compared with."""
    routes: Mapping[str, Route]
    embed: Route
    """The embeddings (N, 1280), by the original."""
    libraries: tuple[str, ...]
    facts: Callable[[], Mapping[str, Any]] = field(default=dict)
    """Further facts for the report, once all images have been run."""
    activation: str | None = None
    """What an archive's program ends in."""

    @property
    def source(self) -> str:
        return "paddle" if self.weights.architecture.family == PADDLE_GHOSTNET else "timm"


def onnx_route(model: bytes) -> Route:
    """Return a function that runs an ONNX classifier with ONNX Runtime's defaults and returns its first output."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    image, logits = session.get_inputs()[0].name, session.get_outputs()[0].name

    def run(pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        output: NDArray[np.float32] = session.run([logits], {image: pixel_values})[0]
        return output

    return run

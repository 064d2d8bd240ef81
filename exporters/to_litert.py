"""ONNX -> LiteRT, in float32, and in int8 where the bundle has an int8 graph."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError

from exporters.litert_network import LiteRtNetwork
from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.litert import LiteRtEngine
from ghostzoo.errors import EngineError, ParityError

if TYPE_CHECKING:
    from exporters.quantized_bundle import GraphComparison
    from ghostzoo.evaluation.datasets import ImageDataset

INT8_FILE = "litert/model_quantized.tflite"
_MAX_IMAGES = 512


def convert(bundle: Bundle) -> dict[str, bytes]:
    """Convert the float32 graph of ``bundle``; return the file's content by its path in the bundle.

    The network takes ``pixel_values`` (1, height, width, 3) and gives ``logits`` (1, classes) and ``embedding``
    (1, 1280), all float32; ``resize_tensor_input`` makes it take more images at once.

    Raises:
        EngineError: the graph has something that ``ghostzoo.network.graph`` does not use.
    """
    (path,) = CONVERTED_FILES["litert"]
    return {path: _convert(bundle, "fp32")}


def convert_int8(bundle: Bundle, images: ImageDataset) -> tuple[dict[str, bytes], GraphComparison]:
    """Convert the int8 graph that ``exporters quantize`` made, and compare it with float32 on ``images``.

    Inputs and outputs are float32 as in ``convert``. At most 512 of the images are used, evenly spaced.

    Raises:
        OptionError: the bundle has no int8 graph.
        ParityError: the top-1 of too many images is another.
        EngineError: as ``convert``.
    """
    from exporters.quantized_bundle import REQUIRED_AGREEMENT, compare_runs
    from ghostzoo.evaluation.evaluate import take_evenly

    data = _convert(bundle, "int8")
    with LiteRtEngine(
        {CONVERTED_FILES["litert"][0]: data}, EngineOptions(threads=1), bundle.config.image_size
    ) as engine:
        comparison = compare_runs(bundle, engine.run, take_evenly(images, _MAX_IMAGES).samples)
    same = comparison.same_top1
    if same.value < REQUIRED_AGREEMENT:
        raise ParityError(
            f"{bundle.name} in int8 keeps the best class of {same.right} of {same.total} images in LiteRT, less than "
            f"{REQUIRED_AGREEMENT:g} of them. Nothing was written; quantise with more or more typical images."
        )
    return {INT8_FILE: data}, comparison


def tools() -> Mapping[str, str]:
    """Return the names and versions of the tools."""
    return {name: version(name) for name in ("ai-edge-litert", "flatbuffers")}


def _convert(bundle: Bundle, precision: str) -> bytes:
    model = bundle.model(precision)
    try:
        graph = onnx.load_from_string(model).graph
    except DecodeError as error:
        raise EngineError(
            f"{bundle.name} has a file that is not an ONNX graph: {error}; convert the model again."
        ) from error
    return LiteRtNetwork(graph, bundle.config.image_size).serialize(bundle.name)

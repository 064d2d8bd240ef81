"""ONNX -> LiteRT, of a graph in float32, or in int8 as ``quantize`` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import onnx
from google.protobuf.message import DecodeError

from exporters.litert_network import LiteRtNetwork
from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.errors import EngineError
from ghostzoo.network.tflite_check import check_tflite
from ghostzoo.network.wire import RefusedGraphError


def convert(bundle: Bundle) -> dict[str, bytes]:
    """Convert the float32 graph of ``bundle``; return the file's content by its path in the bundle.

    The network takes ``pixel_values`` (1, height, width, 3) and gives ``logits`` (1, classes) and ``embedding``
    (1, 1280), all float32; ``resize_tensor_input`` makes it take more images at once.

    Raises:
        EngineError: the graph has something that ``ghostzoo.network.graph`` does not use.
    """
    (path,) = CONVERTED_FILES["litert"]
    return {path: convert_graph(bundle, bundle.model())}


def tools() -> Mapping[str, str]:
    """Return the names and versions of the tools."""
    return {name: version(name) for name in ("ai-edge-litert", "flatbuffers")}


def convert_graph(bundle: Bundle, graph: bytes) -> bytes:
    """Convert an ONNX graph in float32 or int8 of ``bundle``'s network; inputs and outputs are as in ``convert``.

    Raises:
        EngineError: it is no graph, or has something that ``ghostzoo.network.graph`` and ``exporters.quantize`` do not
            use.
    """
    name, size = bundle.name, bundle.config.image_size
    try:
        data = LiteRtNetwork(onnx.load_from_string(graph).graph, size).serialize(name)
        check_tflite(data, num_classes=bundle.num_classes, image_size=size)
    except DecodeError as error:
        raise EngineError(f"{name} has a file that is not an ONNX graph: {error}; convert the model again.") from error
    except RefusedGraphError as error:
        raise EngineError(f"The file of {name} for LiteRT {error}, so the engine would refuse it.") from error
    return data

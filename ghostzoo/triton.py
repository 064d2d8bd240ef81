"""A bundle as a model repository of NVIDIA's Triton Inference Server.

The layout and the configuration are those of
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_repository.html.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ._utils.files import recover, replaced
from ._utils.urls import as_path
from ._version import __version__
from .errors import OptionError

if TYPE_CHECKING:
    import onnx

    from .bundle.folder import Bundle

FILES = {"onnxruntime": "model.onnx", "openvino": "model.onnx", "tensorrt": "model.plan"}
"""What each back end loads."""
MAX_BATCH = 8
MAX_DELAY_MS = 5.0
_CONFIG, _LABELS, _VERSION = "config.pbtxt", "labels.txt", "1"
_MOST_DELAY_MS = 60_000
_TYPES = {1: "TYPE_FP32", 10: "TYPE_FP16"}
"""ONNX's number of an element type -> Triton's name."""


def export_triton(
    bundle: Bundle,
    out: str | PathLike[str],
    *,
    backend: str = "onnxruntime",
    precision: str = "fp32",
    gpu: bool = False,
    plan: str | PathLike[str] | None = None,
    max_batch: int = MAX_BATCH,
    max_delay_ms: float = MAX_DELAY_MS,
    overwrite: bool = False,
) -> Path:
    """Write a model into a model repository: its file, ``config.pbtxt`` with dynamic batching, and its labels.

    Its input is ``pixel_values``, preprocessed as the configuration's first lines say; ``logits`` have labels, so that
    clients may ask for classes.

    Args:
        bundle: the model.
        out: the repository, which may hold other models; it is made where it is missing.
        backend: ``onnxruntime``, ``openvino`` or ``tensorrt``.
        precision: of the bundle's graphs.
        gpu: run on a GPU; TensorRT always does, OpenVINO here never.
        plan: TensorRT's engine, of the version of TensorRT in the server and for its GPU.
        max_batch: images that Triton puts into one call.
        max_delay_ms: how long an image waits for others, in milliseconds.
        overwrite: replace the model of that name.

    Returns:
        The model's folder.

    Raises:
        GhostZooError: an option is impossible, the bundle lacks the graph, or nothing can be written.
    """
    if backend not in FILES:
        raise OptionError(f"Triton has no back end {backend!r} for this model; take {', '.join(FILES)}.")
    if gpu and backend == "openvino":
        raise OptionError("Triton's OpenVINO back end is for CPUs; leave --gpu out, or take onnxruntime or tensorrt.")
    if max_batch < 1 or not 0 <= max_delay_ms <= _MOST_DELAY_MS:
        raise OptionError(f"max_batch must be at least 1, and max_delay_ms from 0 to {_MOST_DELAY_MS:,}.")
    graph = bundle.model(precision)
    data = graph if backend != "tensorrt" else _read_plan(plan, bundle.name)
    if plan is not None and backend != "tensorrt":
        raise OptionError(f"A plan is for the back end tensorrt, not for {backend}; leave one of them out.")
    kind = "KIND_GPU" if gpu or backend == "tensorrt" else "KIND_CPU"
    config = _config(bundle, graph, backend, precision, kind, max_batch, round(1000 * max_delay_ms))
    labels = "".join(re.sub(r"\s+", " ", label.label) + "\n" for label in bundle.labels)
    folder = as_path(out, "out") / bundle.name
    files = {_CONFIG: config.encode(), _LABELS: labels.encode(), f"{_VERSION}/{FILES[backend]}": data}
    _write(folder, files, overwrite)
    return folder


def _read_plan(plan: str | PathLike[str] | None, name: str) -> bytes:
    if plan is None:
        raise OptionError(
            "The back end tensorrt needs an engine for the server's GPU: make one there with 'ghostzoo build-engine "
            f"--model {name} --library tensorrt --out model.plan', and give it with --plan; or take onnxruntime and "
            "--gpu."
        )
    try:
        return as_path(plan, "plan").read_bytes()
    except OSError as error:
        raise OptionError(f"Cannot read {plan}: {error.strerror or error}; check the path.") from error


def _config(bundle: Bundle, graph: bytes, backend: str, precision: str, kind: str, max_batch: int, delay: int) -> str:
    import onnx

    network = onnx.load_from_string(graph).graph
    facts = {"preprocessing": asdict(bundle.preprocessing), "graph_sha256": bundle.model_hash(precision)}
    lines = [
        f"# Written by ghostzoo {__version__}.",
        *(f"# {name}: {json.dumps(value)}" for name, value in facts.items()),
        f"name: {json.dumps(bundle.name)}",
        f'backend: "{backend}"',
        f'default_model_filename: "{FILES[backend]}"',
        f"max_batch_size: {max_batch}",
        *(f"input {{ {_tensor(value)} }}" for value in network.input),
        *(
            f"output {{ {_tensor(value)}" + (f' label_filename: "{_LABELS}"' if value.name == "logits" else "") + " }"
            for value in network.output
        ),
        f"instance_group {{ count: 1 kind: {kind} }}",
        f"dynamic_batching {{ max_queue_delay_microseconds: {delay} }}",
    ]
    return "\n".join(lines) + "\n"


def _tensor(value: onnx.ValueInfoProto) -> str:
    """A tensor without the axis of the batch, which Triton adds."""
    of = value.type.tensor_type
    dims = ", ".join(str(dim.dim_value) for dim in list(of.shape.dim)[1:])
    return f"name: {json.dumps(value.name)} data_type: {_TYPES[of.elem_type]} dims: [ {dims} ]"


def _write(folder: Path, files: dict[str, bytes], overwrite: bool) -> None:
    recover(folder.parent)
    if folder.exists():
        if not (folder / _CONFIG).is_file():
            raise OptionError(f"{folder} exists and is not a model of a Triton repository; take another --out.")
        if not overwrite:
            raise OptionError(f"{folder} exists; take another --out, or give --overwrite.")
    try:
        with replaced(folder) as new:
            for name, data in files.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).write_bytes(data)
    except OSError as error:
        raise OptionError(f"Cannot write {folder}: {error.strerror or error}; nothing was changed.") from error

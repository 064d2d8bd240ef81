"""What the protocol's tensors mean here: images or pixels in; logits, scores and labels out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..._version import __version__
from ...errors import ImageError
from ...predictions import SCORE_DECIMALS, top_predictions
from ..queueing import Source
from ..repository import ModelInstance, ServedModel
from ..request_errors import bad_request, not_found, unprocessable
from ..service import RequestInfo, Service
from .tensors import BYTES, FP32, IMAGES, PIXEL_VALUES, InputSpec, OutputTensor, RequestedOutput, Values

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")
VERSION = "1"
OUTPUTS = ("logits", "scores", "labels")
_CLASSES_HERE = 500
"""Classes that are told by name on the event loop; more are left to a thread."""


_Input = TypeVar("_Input")


def server_metadata() -> dict[str, Any]:
    return {"name": "ghostzoo", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """Return inputs and outputs as the protocol describes them. A request has one of the two inputs."""
    classes = model.bundle.num_classes
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": f"ghostzoo_{model.instance(None).engine}",
        "inputs": [
            {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
            for spec in input_specs(model).values()
        ],
        "outputs": [
            {"name": "logits", "datatype": FP32, "shape": [-1, classes]},
            {"name": "scores", "datatype": FP32, "shape": [-1, classes]},
            {"name": "labels", "datatype": BYTES, "shape": [-1]},
        ],
    }


def model_config(model: ServedModel, max_images: int) -> dict[str, Any]:
    """Return the model's configuration as Triton describes it."""
    metadata = model_metadata(model)
    kinds = {FP32: "TYPE_FP32", BYTES: "TYPE_STRING"}

    def described(tensor: dict[str, Any]) -> dict[str, Any]:
        dims = tensor["shape"][1:] or [1]
        return {"name": tensor["name"], "data_type": kinds[tensor["datatype"]], "dims": dims}

    return {
        "name": model.name,
        "platform": metadata["platform"],
        "backend": model.instance(None).engine,
        "max_batch_size": max_images,
        "input": [described(tensor) | {"optional": True} for tensor in metadata["inputs"]],  # a request has one of them
        "output": [described(tensor) for tensor in metadata["outputs"]],
    }


def model_statistics(service: Service, model: ServedModel) -> dict[str, Any]:
    """Return what was counted of the model since the start, over all its engines, as Triton describes it."""
    found = service.metrics.of_model(model.name)

    def duration(stage: str) -> dict[str, int]:
        return {"count": found.images, "ns": round(1e9 * found.seconds.get(stage, 0.0))}

    stats = {
        "success": {"count": found.images, "ns": round(1e9 * sum(found.seconds.values()))},
        "fail": {"count": found.failed, "ns": 0},
        "queue": duration("queue"),
        "compute_input": duration("decode"),
        "compute_infer": duration("inference"),
        "compute_output": duration(""),
    }
    return {
        "name": model.name,
        "version": VERSION,
        "last_inference": round(1000 * found.last),
        "inference_count": found.images,
        "execution_count": found.batches,
        "inference_stats": stats,
    }


def input_specs(model: ServedModel) -> dict[str, InputSpec]:
    side = model.bundle.config.image_size
    return {
        PIXEL_VALUES: InputSpec(PIXEL_VALUES, FP32, (-1, 3, side, side)),
        IMAGES: InputSpec(IMAGES, BYTES, (-1,)),
    }


def find_model(service: Service, name: str, version: str | None) -> ServedModel:
    """Return a loaded model.

    Raises:
        RequestError: there is none of that name and version, or it is not loaded.
    """
    model = service.repository.get(name)
    if version not in (None, "", VERSION):
        raise not_found(f"{model.name} has version {VERSION} only, not {str(version)[:40]!r}.")
    return model


def find_spec(model: ServedModel, name: str) -> InputSpec:
    """Return what the input ``name`` must be.

    Raises:
        RequestError: there is no such input.
    """
    specs = input_specs(model)
    if name not in specs:
        raise bad_request(f"{model.name} has no input {name[:80]!r}; send one of {' and '.join(specs)}.")
    return specs[name]


def with_timeout(request_info: RequestInfo, parameters: Mapping[str, Any]) -> RequestInfo:
    """Shorten the deadline to the request's parameter ``timeout``, in microseconds."""
    timeout = parameters.get("timeout")
    timeout = 0 if timeout is None else timeout
    if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0:
        raise bad_request("The parameter timeout must be a whole number of microseconds.")
    if not timeout:
        return request_info
    return replace(request_info, deadline=min(request_info.deadline, asyncio.get_running_loop().time() + timeout / 1e6))


def only_input(model: ServedModel, inputs: Sequence[_Input]) -> _Input:
    """Return the one input of a request.

    Raises:
        RequestError: there are more, or none.
    """
    if len(inputs) != 1:
        raise bad_request(f"{model.name} takes one input, {PIXEL_VALUES} or {IMAGES}, not {len(inputs)}.")
    return inputs[0]


async def infer(
    service: Service,
    model: ServedModel,
    values: Values,
    requested: Sequence[RequestedOutput],
    request_info: RequestInfo,
) -> list[OutputTensor]:
    """Answer a request.

    Args:
        values: of the one input.
        requested: the outputs that are wanted; all of them where none is named.

    Raises:
        RequestError: it asks for what there is not, an image cannot be read, or it is too late.
    """
    if len({output.name for output in requested}) != len(requested):
        raise bad_request(f"An output is asked for more than once; ask once for each of {', '.join(OUTPUTS)}.")
    for output in requested:
        if output.name not in OUTPUTS:
            raise bad_request(f"{model.name} has no output {output.name[:80]!r}; it has {', '.join(OUTPUTS)}.")
        if output.classification < 0 or (output.classification and output.name == "labels"):
            raise bad_request("classification takes a number of classes, for logits or scores.")
    instance = model.instance(None)
    sources: list[Source] = list(values)
    outcomes = await service.classify(instance, sources, request_info)
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, ImageError):
            raise unprocessable(f"Image {index}: {outcome.reason}.")
    logits = np.stack([outcome.logits for outcome in outcomes if not isinstance(outcome, ImageError)])
    if not np.isfinite(logits).all():
        raise unprocessable(f"{PIXEL_VALUES} has values that are not finite, or too large for the network.")
    wanted = requested or [RequestedOutput(name) for name in OUTPUTS]
    if any(output.classification * len(logits) > _CLASSES_HERE for output in wanted):
        return await service.aside(_outputs, instance, logits, wanted)
    return _outputs(instance, logits, wanted)


def _outputs(
    instance: ModelInstance, logits: NDArray[np.float32], wanted: Sequence[RequestedOutput]
) -> list[OutputTensor]:
    return [_output(instance, logits, output) for output in wanted]


def _output(instance: ModelInstance, logits: NDArray[np.float32], output: RequestedOutput) -> OutputTensor:
    postprocessing = instance.classifier.bundle.postprocessing
    scores, labels = postprocessing.probabilities(logits), postprocessing.labels
    if output.name == "labels":
        values = _texts(labels[index].label for index in scores.argmax(axis=1).tolist())
    elif output.classification:
        source = logits if output.name == "logits" else scores
        rows = [top_predictions(row, labels, output.classification) for row in source]
        values = _texts(f"{each.score:.{SCORE_DECIMALS}f}:{each.index}:{each.label}" for row in rows for each in row)
        values = values.reshape(len(rows), -1)
    else:
        return OutputTensor(output.name, logits if output.name == "logits" else scores, output.binary)
    return OutputTensor(output.name, values, output.binary)


def _texts(texts: Iterable[str]) -> NDArray[np.object_]:
    return np.array(list(texts), dtype=np.object_)

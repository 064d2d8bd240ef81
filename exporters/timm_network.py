"""timm's own networks, as the original of the families whose weights it publishes; it needs timm and torchvision."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ghostzoo.errors import EngineUnavailableError, OptionError
from ghostzoo.network.architecture import Architecture

OPSET_VERSION = 17
Floats = NDArray[np.float32]
_COUNTER = "num_batches_tracked"


def import_timm() -> Any:
    """Import timm.

    It imports torchvision, whose wheels want PyTorch's own build of the same day: beside another, such as that for CPUs
    alone, two of its operators have no schema and the import fails. They are declared here, and used nowhere.

    Raises:
        EngineUnavailableError: it cannot be imported.
    """
    try:
        library = torch.library.Library("torchvision", "DEF")
        for schema in (
            "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        ):
            library.define(schema)
    except RuntimeError:  # they have schemas already
        pass
    else:
        _LIBRARIES.append(library)  # or the schemas go with it
    try:
        import timm
    except ImportError as error:
        raise EngineUnavailableError(
            f"Proving these weights needs timm ({error}); run 'nox -s timm' in a checkout, or pip install timm torch "
            "torchvision."
        ) from error
    return timm


_LIBRARIES: list[Any] = []


def build_network(arrays: Mapping[str, Floats], architecture: Architecture) -> torch.nn.Module:
    """Return timm's network in evaluation mode, with the weights ``arrays``, as they were trained.

    Raises:
        EngineUnavailableError: timm cannot be imported.
        OptionError: it has no network of this width.
    """
    network = new_network(architecture)
    if architecture.fused:
        network = fused_network(network)
    counters = {key: value for key, value in network.state_dict().items() if key.endswith(_COUNTER)}
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
    network.load_state_dict({**counters, **tensors})
    return network.eval()


def new_network(architecture: Architecture) -> torch.nn.Module:
    """Return timm's network with random weights; raises the errors of ``build_network``."""
    timm = import_timm()
    if not timm.is_model(architecture.name) or Architecture.named(architecture.name).channels != architecture.channels:
        raise OptionError(
            f"timm has no {architecture.title} to compare with; 'ghostzoo convert' makes bundles without comparing."
        )
    network: torch.nn.Module = timm.create_model(architecture.name, num_classes=architecture.num_classes)
    return network


def fused_network(network: torch.nn.Module) -> torch.nn.Module:
    """Return a copy whose training-time branches timm has added up."""
    from timm.utils import reparameterize_model

    fused: torch.nn.Module = reparameterize_model(copy.deepcopy(network).eval())
    return fused


def double_route(network: torch.nn.Module) -> Callable[[Floats], tuple[Floats, Floats]]:
    """``forward`` in float64."""
    double = copy.deepcopy(network).double()
    return lambda pixel_values: forward(double, pixel_values)


def forward(network: torch.nn.Module, pixel_values: Floats) -> tuple[Floats, Floats]:
    """Run timm's own forward pass: logits (N, classes) and embeddings (N, 1280), rounded to float32."""
    with torch.inference_mode():
        x = torch.from_numpy(pixel_values).to(next(network.parameters()).dtype)
        features = network.forward_features(x)
        pair = network.forward_head(features), network.forward_head(features, pre_logits=True)
    logits, embedding = (each.float().numpy() for each in pair)
    return logits, embedding


def export_onnx(network: torch.nn.Module, image_size: int) -> bytes:
    """Return the graph of PyTorch's own exporter, of the network as it is deployed: with its branches added up."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            fused_network(network),
            (torch.zeros(1, 3, image_size, image_size),),
            file,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes={"pixel_values": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET_VERSION,
            dynamo=False,
        )
    return file.getvalue()


def calibrated_arrays(architecture: Architecture, pixel_values: Floats, seed: int = 0) -> dict[str, Floats]:
    """Return random weights whose batch-norm statistics are those of ``pixel_values``, as after training.

    Args:
        architecture: one that timm has.
        pixel_values: (N, 3, H, W), photographs.
        seed: of the random numbers.
    """
    torch.manual_seed(seed)
    network = new_network(architecture)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(pixel_values))
    shapes = architecture.state_shapes()
    return {key: value.numpy() for key, value in network.state_dict().items() if key in shapes}

"""Networks as they train on one device: half precision, their moving average, and how accurate they are."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import get_ema_multi_avg_fn

from exporters.efficientnet_lite_torch import EfficientNetLite
from exporters.torch_network import GhostNet
from ghostzoo.evaluation.calibrate import fit_temperature

_EVALUATION_BATCH = 500
_WARMUP_STEPS = 3  # before a graph is recorded
Normalisation = tuple[Tensor, Tensor]
"""Mean and standard deviation, (1, 3, 1, 1)."""


def normalisation(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Normalisation:
    mean_, std_ = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
    return mean_, std_


def normalised(x: Tensor, by: Normalisation) -> Tensor:
    """Pixels from 0 to 1 -> the network's input, in channels-last memory."""
    return ((x - by[0]) / by[1]).contiguous(memory_format=torch.channels_last)


def half(device: torch.device) -> torch.autocast:
    """bfloat16 where it is safe, on a GPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False)


class MovingAverage:
    """An exponential moving average of weights and batch-norm statistics; updating it never waits for the device."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(network).eval().requires_grad_(False)
        self._update = get_ema_multi_avg_fn(decay)
        self._averages, self._values = (
            [tensor.detach() for tensor in (*each.parameters(), *each.buffers()) if tensor.is_floating_point()]
            for each in (self.module, network)
        )

    def update(self) -> None:
        self._update(self._averages, self._values, 0)


def without_counters(network: nn.Module) -> None:
    """Let batch-norm not count batches: a launch each, for nothing where it has a momentum."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = None


class Step:
    """Gradients of a loss, from inputs of fixed shapes; recorded once and replayed, so that the host is not waited for.

    Args:
        loss: what computes it.
        network: the network whose parameters get gradients.
        clip: maximum norm of all gradients together.
        record: replay a CUDA graph.
    """

    def __init__(self, loss: Callable[..., Tensor], network: nn.Module, clip: float, *, record: bool) -> None:
        self._loss, self._network, self._clip, self._record = loss, network, clip, record
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._result = torch.empty(())

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Leave the gradients in the network; return the loss, which the next call may overwrite."""
        if not self._record:
            return self._compute(*inputs)
        graph = self._graph = self._graph or self._capture(*inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        graph.replay()
        return self._result

    def _compute(self, *inputs: Tensor) -> Tensor:
        self._network.zero_grad(set_to_none=True)
        return self._backward(*inputs)

    def _backward(self, *inputs: Tensor) -> Tensor:
        loss = self._loss(*inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._clip, foreach=True)
        return loss.detach()

    def _capture(self, *inputs: Tensor) -> torch.cuda.CUDAGraph:
        self._inputs = tuple(each.clone() for each in inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARMUP_STEPS):
                self._compute(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._network.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._result = self._backward(*self._inputs)
        return graph


def frozen(network: EfficientNetLite) -> EfficientNetLite:
    """Prepare a teacher for answers alone: batch-norm becomes part of the convolutions; changes it."""
    network.eval().requires_grad_(False)
    for unit in network.body:
        unit.conv, unit.norm = fuse_conv_bn_eval(unit.conv, unit.norm), nn.Identity()
    half_precision = next(network.parameters()).device.type == "cuda"
    prepared: EfficientNetLite = network.to(
        torch.bfloat16 if half_precision else torch.float32, memory_format=torch.channels_last
    )
    return prepared


@torch.inference_mode()
def logits_of(network: Callable[[Tensor], Tensor], pixels: Tensor, resize_short: int, crop: int) -> Tensor:
    """Logits (N, classes) of images (N, 3, H, W) uint8, resized and cropped as at inference."""
    scale = resize_short / min(pixels.shape[2:])
    height, width = (round(side * scale) for side in pixels.shape[2:])
    top, left, found = (height - crop) // 2, (width - crop) // 2, []
    for batch in pixels.split(_EVALUATION_BATCH):
        x = F.interpolate(batch.float(), (height, width), mode="bilinear", align_corners=False)
        found.append(network(x.round()[:, :, top : top + crop, left : left + crop] / 255).float())
    return torch.cat(found)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1."""
    return float((logits.argmax(1) == labels).float().mean())


@torch.no_grad()
def calibrate_head(network: GhostNet, logits: Tensor, labels: Tensor) -> float:
    """Divide the last layer by the temperature at which these logits are likeliest, and return it.

    A student learns soft answers, and is less sure than it is right. In the weights, the temperature holds on every
    engine and in every language.
    """
    temperature = fit_temperature(logits.cpu().numpy(), labels.cpu().numpy())
    for parameter in network.fc_1.parameters():
        parameter.div_(temperature)
    return temperature

"""Distributed training: the device, the other processes that ``torchrun`` started, and metrics over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from exporters.training.recipe import Recipe
from ghostzoo.errors import OptionError
from ghostzoo.evaluation.datasets import UNLABELLED

_T = TypeVar("_T")


@dataclass(frozen=True)
class Process:
    """One of the processes of a run. Its methods are collective: all processes must call them at the same point."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process reports and writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        values = values.clone()
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def max(self, values: Sequence[int]) -> list[int]:
        """Return the element-wise maximum over all processes."""
        if self.world_size == 1:
            return list(values)
        shared = torch.tensor(values, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return [int(value) for value in shared]

    def gather(self, items: list[_T]) -> list[_T]:
        """Return the items of all processes, by rank."""
        if self.world_size == 1:
            return items
        lists: list[list[_T]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(lists, items)
        return [item for each in lists for item in each]

    def broadcast(self, tensors: Iterator[Tensor]) -> None:
        """Overwrite the tensors with those of the main process."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()


class EpochMetrics:
    """Mean loss and accuracy of an epoch, summed up on the device."""

    def __init__(self, device: torch.device, sums: list[float] | None = None) -> None:
        self.sums = torch.tensor(sums or [0.0] * 4, dtype=torch.float64, device=device)
        """Loss, correct predictions, labelled images, images."""

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        labelled = labels != UNLABELLED
        correct = ((logits.argmax(1) == labels) & labelled).sum()
        images = torch.full_like(correct, len(labels))
        sums = [loss.double() * len(labels), correct.double(), labelled.sum().double(), images.double()]
        self.sums += torch.stack(sums)

    def means(self, process: Process) -> tuple[float, float]:
        """Return mean loss and accuracy over the images of all processes."""
        loss, correct, labelled, images = process.sum(self.sums).tolist()
        return loss / max(images, 1), correct / max(labelled, 1)


@contextmanager
def join_processes(device: str) -> Iterator[Process]:
    """Choose this process's device, and join the process group if ``torchrun`` started several processes.

    Args:
        device: ``auto`` (CUDA if available), ``cpu`` or ``cuda``.

    Raises:
        OptionError: there is no such device.
    """
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = _device(device)
    if world_size == 1:
        yield Process(chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Process(chosen, rank, world_size)
    finally:
        dist.destroy_process_group()


def resolve_precision(precision: str, device: str) -> str:
    """Return what ``auto`` means on the device: float32 on a CPU, mixed precision on a GPU."""
    if precision != "auto":
        return precision
    if _device(device).type == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _device(name: str) -> torch.device:
    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise OptionError(f"device must be auto, cpu or cuda, not {name!r}.")
    if not available:
        raise OptionError("There is no CUDA device that PyTorch can use here; train with --device cpu.")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise OptionError(f"{torch.cuda.device_count()} CUDA devices are too few for this many processes; start fewer.")
    torch.cuda.set_device(index)
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda", index)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which the network computes in ``precision``."""
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "float32")


def wrap(network: torch.nn.Module, process: Process, recipe: Recipe) -> Any:
    """Return the network as it is called in training: with gradients averaged over the processes, and compiled."""
    forward: Any = network
    if process.world_size > 1:
        devices = [process.device] if process.device.type == "cuda" else None
        forward = torch.nn.parallel.DistributedDataParallel(network, device_ids=devices)
    # One compiled graph per image size: a graph for all sizes would be slower.
    return torch.compile(forward, dynamic=False) if recipe.compile else forward

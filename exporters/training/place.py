"""Where a process of a run computes: its device, and the other processes that ``torchrun`` started beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ghostzoo.errors import OptionError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Place:
    """This process among the others. Every method below must be called by all of them at the same point."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that reports and writes."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the processes."""
        values = values.clone()
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def largest(self, values: Sequence[int]) -> list[int]:
        """Return the maximum over the processes, value by value."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return [int(value) for value in shared]

    def gather(self, items: list[_T]) -> list[_T]:
        """Return the items of all processes, in the order of their ranks."""
        if self.world == 1:
            return items
        lists: list[list[_T]] = [[] for _ in range(self.world)]
        dist.all_gather_object(lists, items)
        return [item for each in lists for item in each]

    def copy_from_first(self, tensors: Iterator[Tensor]) -> None:
        """Overwrite the tensors with the first process's."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def open_place(device: str) -> Iterator[Place]:
    """Join the other processes where ``torchrun`` started several, and choose the device of this one.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.

    Raises:
        OptionError: there is no such device.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = _device(device)
    if world == 1:
        yield Place(chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Place(chosen, rank, world)
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

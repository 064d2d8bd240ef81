"""A layer of the network as data: where its weights are, and what it computes.

Every layer is a convolution, written as a sum of *branches*. Most have one. Networks that are trained with several
parallel branches (RepGhostNet, GhostNetV3) have more, which ``folded`` adds up into one convolution, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # the catalog counts parameters without numpy
    import numpy as np
    from numpy.typing import NDArray

BATCH_NORM_EPSILON = 1e-5
"""Paddle's and PyTorch's default, which all these networks keep."""

Arrays: TypeAlias = "Mapping[str, NDArray[np.float32]]"
Shape = tuple[int, ...]
Floats: TypeAlias = "NDArray[np.float64]"


@dataclass(frozen=True)
class Norm:
    """Keys of a batch-norm's tensors."""

    gamma: str
    beta: str
    mean: str
    variance: str

    @property
    def keys(self) -> tuple[str, str, str, str]:
        return self.gamma, self.beta, self.mean, self.variance


@dataclass(frozen=True)
class Branch:
    """One of the parts of a layer that are added: a convolution, or the layer's input as it is."""

    weight: str
    """Key of the convolution's weight; empty for the input as it is."""
    stored: Shape
    """Shape of the weight in the file, where Linear layers have two dimensions; empty if there is none."""
    kernel: tuple[int, int]
    """Height and width in pixels; a smaller one than the layer's is centred in it."""
    norm: Norm | None = None
    bias: str = ""
    """Key of the bias, where there is no batch-norm."""
    transposed: bool = False
    """Whether the weight is stored as (in, out), as Paddle's Linear layers are."""


@dataclass(frozen=True)
class Layer:
    """A convolution, depthwise or over all channels; Linear layers are convolutions of one pixel."""

    name: str
    """As in the graph, such as ``blocks.3.ghost1.primary``."""
    shape: tuple[int, int, int, int]
    """Of its weight: (out, in of a group, height, width). The input is padded by half of height and width, rounded
    down, on each side."""
    stride: int
    depthwise: bool
    branches: tuple[Branch, ...]

    @property
    def out_channels(self) -> int:
        return self.shape[0]

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.shape[2:]

    @property
    def has_norm(self) -> bool:
        """Whether it ends in one batch-norm; the sum of several branches does not."""
        return len(self.branches) == 1 and self.branches[0].norm is not None

    def state_shapes(self) -> Iterator[tuple[str, Shape]]:
        """Key and shape of each of its tensors."""
        for branch in self.branches:
            if branch.weight:
                yield branch.weight, branch.stored
            if branch.norm is not None:
                for key in branch.norm.keys:
                    yield key, (self.out_channels,)
            if branch.bias:
                yield branch.bias, (self.out_channels,)

    def count_parameters(self) -> int:
        """Trainable parameters, once its branches are one convolution."""
        return math.prod(self.shape) + (2 if self.has_norm else 1) * self.out_channels

    def count_multiply_adds(self, pixels: int) -> int:
        """Multiply-adds for an output of so many pixels, once its branches are one convolution."""
        return math.prod(self.shape) * pixels

    def weight(self, branch: Branch, arrays: Arrays) -> Floats:
        """Weight of one of its branches, (out, in of a group, height, width), without its batch-norm."""
        import numpy as np

        if not branch.weight:
            return np.ones((self.out_channels, 1, 1, 1))
        weight: Floats = arrays[branch.weight].astype(np.float64)
        if branch.transposed:
            weight = weight.T
        return weight.reshape(*self.shape[:2], *branch.kernel)

    def folded(self, arrays: Arrays) -> tuple[Floats, Floats]:
        """Weight (as ``shape``) and bias of the whole layer, with its batch-norms folded in."""
        import numpy as np

        weight, bias = np.zeros(self.shape), np.zeros(self.out_channels)
        for branch in self.branches:
            part = self.weight(branch, arrays)
            if branch.norm is not None:
                gamma, beta, mean, variance = (arrays[key].astype(np.float64) for key in branch.norm.keys)
                scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
                part, shift = part * scale[:, None, None, None], beta - mean * scale
            else:
                shift = arrays[branch.bias].astype(np.float64)
            top, left = ((whole - small) // 2 for whole, small in zip(self.kernel, branch.kernel, strict=True))
            weight[:, :, top : top + branch.kernel[0], left : left + branch.kernel[1]] += part
            bias += shift
        return weight, bias

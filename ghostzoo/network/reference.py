"""The forward pass in plain NumPy and float64: slow, obvious, independent of every engine and of ``graph``.

It works on the weights as they are (batch-norm unfolded, branches apart, channels unpadded), so a converted graph can
be held against the original's arithmetic on any machine, without Paddle or PyTorch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .architecture import Architecture
from .blocks import Block, GhostModule
from .layers import BATCH_NORM_EPSILON, Arrays, Branch, Layer

_Tensor = NDArray[np.float64]


def reference_forward(
    arrays: Arrays, architecture: Architecture, pixel_values: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the network's output, in about a second per image.

    Args:
        arrays: tensors under the source's keys.
        architecture: family, width and class count.
        pixel_values: (N, 3, H, W) float32, preprocessed.

    Returns:
        Logits (N, num_classes) and embeddings (N, 1280), computed in float64 and rounded to float32.
    """
    forward = _Forward(arrays, architecture)
    logits, embeddings = zip(*(forward.run(image.astype(np.float64)) for image in pixel_values), strict=True)
    return np.stack(logits).astype(np.float32), np.stack(embeddings).astype(np.float32)


class _Forward:
    def __init__(self, arrays: Arrays, architecture: Architecture) -> None:
        self._arrays, self._architecture = arrays, architecture

    def _apply(self, layer: Layer, x: _Tensor) -> _Tensor:
        return apply_layer(self._arrays, layer, x)

    def run(self, x: _Tensor) -> tuple[_Tensor, _Tensor]:
        architecture = self._architecture
        x = _relu(self._apply(architecture.stem, x))
        for block in architecture.blocks:
            x = self._block(block, x)
        x = _mean(_relu(self._apply(architecture.last, x)))
        embedding = _relu(self._apply(architecture.hidden, x))
        return self._apply(architecture.classifier, embedding).reshape(-1), embedding.reshape(-1)

    def _block(self, block: Block, x: _Tensor) -> _Tensor:
        y = self._ghost(block.ghost1, x)
        if block.depthwise is not None:
            y = self._apply(block.depthwise, y)
        if block.gate is not None:
            squeeze, excite = block.gate
            gate = self._apply(excite, _relu(self._apply(squeeze, _mean(y))))
            y = y * (_hard_sigmoid(gate) if self._architecture.family.hard_sigmoid else np.clip(gate, 0, 1))
        y = self._ghost(block.ghost2, y)
        for layer in block.shortcut or ():
            x = self._apply(layer, x)
        return x + y

    def _ghost(self, module: GhostModule, x: _Tensor) -> _Tensor:
        activation = _relu if module.relu else _identity
        primary = activation(self._apply(module.primary, x))
        cheap = activation(self._apply(module.cheap, primary))
        y = np.concatenate([primary, cheap]) if module.joins else cheap
        if module.attention is not None:
            gate = _halve(x)
            for layer in module.attention:
                gate = self._apply(layer, gate)
            y = y * _nearest(1 / (1 + np.exp(-gate)), y.shape[1:])
        return y


def apply_layer(arrays: Arrays, layer: Layer, x: _Tensor) -> _Tensor:
    """The sum of a layer's branches, each with its own batch-norm: (C, H, W) -> (C', H', W')."""
    total = _branch(arrays, layer, layer.branches[0], x)
    for branch in layer.branches[1:]:
        total = total + _branch(arrays, layer, branch, x)
    return total


def _branch(arrays: Arrays, layer: Layer, branch: Branch, x: _Tensor) -> _Tensor:
    if branch.weight:
        weight = layer.weight(branch, arrays)
        x = _depthwise(weight, x, layer.stride) if layer.depthwise else _convolve(weight, x, layer.stride)
    if branch.norm is None:
        return x + arrays[branch.bias].astype(np.float64)[:, None, None]
    gamma, beta, mean, variance = (arrays[key].astype(np.float64)[:, None, None] for key in branch.norm.keys)
    return (x - mean) / np.sqrt(variance + BATCH_NORM_EPSILON) * gamma + beta


def _convolve(weight: _Tensor, x: _Tensor, stride: int) -> _Tensor:
    if weight.shape[2:] == (1, 1):
        return np.tensordot(weight[:, :, 0, 0], x[:, ::stride, ::stride], axes=1)
    y: _Tensor = np.einsum("oikl,ihwkl->ohw", weight, _windows(x, weight.shape[2:], stride), optimize=True)
    return y


def _depthwise(weight: _Tensor, x: _Tensor, stride: int) -> _Tensor:
    y: _Tensor = np.einsum("ckl,chwkl->chw", weight[:, 0], _windows(x, weight.shape[2:], stride))
    return y


def _windows(x: _Tensor, kernel: tuple[int, ...], stride: int) -> _Tensor:
    """(C, H, W) -> (C, H', W', *kernel), zero-padded by half of the kernel."""
    padded = np.pad(x, ((0, 0), *((side // 2, side // 2) for side in kernel)))
    return np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))[:, ::stride, ::stride]


def _halve(x: _Tensor) -> _Tensor:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = (side // 2 for side in x.shape[1:])
    means: _Tensor = x[:, : 2 * height, : 2 * width].reshape(-1, height, 2, width, 2).mean(axis=(2, 4))
    return means


def _nearest(x: _Tensor, size: tuple[int, ...]) -> _Tensor:
    """Repeat pixels: the source of pixel i is floor(i * old size / new size)."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, x.shape[1:], strict=True))
    return x[:, rows][:, :, columns]


def _mean(x: _Tensor) -> _Tensor:
    mean: _Tensor = x.mean(axis=(1, 2), keepdims=True)
    return mean


def _hard_sigmoid(x: _Tensor) -> _Tensor:
    return np.clip(x + 3, 0, 6) / 6


def _relu(x: _Tensor) -> _Tensor:
    return np.maximum(x, 0)


def _identity(x: _Tensor) -> _Tensor:
    return x

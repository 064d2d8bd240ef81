"""The GhostNet forward pass in plain NumPy and float64: slow, obvious, independent of every engine and of ``graph``.

It works on the weights as they are (batch-norm unfolded, channels unpadded), so a converted graph can be held against
the original's arithmetic on any machine, without Paddle.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .architecture import BATCH_NORM_EPSILON, Architecture, Block

_Arrays = Mapping[str, NDArray[np.float32]]
_Tensor = NDArray[np.float64]


def reference_forward(
    arrays: _Arrays, architecture: Architecture, pixel_values: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the network's output, in about a second per image.

    Args:
        arrays: tensors under the official keys.
        architecture: width and class count.
        pixel_values: (N, 3, H, W) float32, preprocessed.

    Returns:
        Logits (N, num_classes) and embeddings (N, 1280), computed in float64 and rounded to float32.
    """
    pairs = [_forward_one(arrays, architecture, image.astype(np.float64)) for image in pixel_values]
    logits, embeddings = zip(*pairs, strict=True)
    return np.stack(logits).astype(np.float32), np.stack(embeddings).astype(np.float32)


def _forward_one(arrays: _Arrays, architecture: Architecture, x: _Tensor) -> tuple[_Tensor, _Tensor]:
    x = _relu(_conv_bn(arrays, "conv1", x, stride=2))
    for block in architecture.blocks:
        x = _block(arrays, block, x)
    x = _relu(_conv_bn(arrays, "conv_last", x))
    x = x.mean(axis=(1, 2), keepdims=True)
    embedding = _relu(_conv_bn(arrays, "fc_0", x)).reshape(-1)
    return _linear(arrays, "fc_1", embedding), embedding


def _block(arrays: _Arrays, block: Block, x: _Tensor) -> _Tensor:
    y = _ghost(arrays, f"{block.key}.ghost_module_1", x, relu=True)
    if block.stride == 2:
        y = _depthwise_bn(arrays, f"{block.key}.depthwise_conv", y, stride=2)
    if block.se_channels:
        squeezed = _relu(_linear(arrays, f"{block.key}.se_block.squeeze", y.mean(axis=(1, 2))))
        gate = np.clip(_linear(arrays, f"{block.key}.se_block.excitation", squeezed), 0, 1)
        y = y * gate[:, None, None]
    y = _ghost(arrays, f"{block.key}.ghost_module_2", y, relu=False)
    if not block.has_identity_shortcut:
        x = _depthwise_bn(arrays, f"{block.key}.shortcut_depthwise", x, stride=block.stride)
        x = _conv_bn(arrays, f"{block.key}.shortcut_conv", x)
    return x + y


def _ghost(arrays: _Arrays, key: str, x: _Tensor, *, relu: bool) -> _Tensor:
    activation = _relu if relu else _identity
    primary = activation(_conv_bn(arrays, f"{key}.primary_conv", x))
    cheap = activation(_depthwise_bn(arrays, f"{key}.cheap_operation", primary))
    return np.concatenate([primary, cheap])


def _windows(x: _Tensor, kernel: int, stride: int) -> _Tensor:
    """(C, H, W) -> (C, H', W', kernel, kernel), zero-padded by kernel // 2."""
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    return np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]


def _conv_bn(arrays: _Arrays, key: str, x: _Tensor, stride: int = 1) -> _Tensor:
    weight = arrays[f"{key}._conv.weight"].astype(np.float64)
    if weight.shape[-1] == 1:
        y = np.tensordot(weight[:, :, 0, 0], x, axes=1)
    else:
        y = np.einsum("oikl,ihwkl->ohw", weight, _windows(x, weight.shape[-1], stride), optimize=True)
    return _batch_norm(arrays, key, y)


def _depthwise_bn(arrays: _Arrays, key: str, x: _Tensor, stride: int = 1) -> _Tensor:
    weight = arrays[f"{key}._conv.weight"].astype(np.float64)[:, 0]
    y = np.einsum("ckl,chwkl->chw", weight, _windows(x, weight.shape[-1], stride))
    return _batch_norm(arrays, key, y)


def _batch_norm(arrays: _Arrays, key: str, x: _Tensor) -> _Tensor:
    gamma, beta, mean, variance = (
        arrays[f"{key}._batch_norm.{name}"].astype(np.float64)[:, None, None]
        for name in ("weight", "bias", "_mean", "_variance")
    )
    return (x - mean) / np.sqrt(variance + BATCH_NORM_EPSILON) * gamma + beta


def _linear(arrays: _Arrays, key: str, x: _Tensor) -> _Tensor:
    # Paddle's weight is (in, out).
    return x @ arrays[f"{key}.weight"].astype(np.float64) + arrays[f"{key}.bias"]


def _relu(x: _Tensor) -> _Tensor:
    return np.maximum(x, 0)


def _identity(x: _Tensor) -> _Tensor:
    return x

"""The NumPy forward pass against a second, literal one: loops over the definition, on a small input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ghostzoo.network.architecture import Architecture
from ghostzoo.network.reference import apply_layer, reference_forward
from tests.fixtures.networks import random_arrays

Array = NDArray[np.float64]


def naive_conv(x: Array, weight: Array, stride: int, groups: int) -> Array:
    """The definition of a convolution with padding kernel // 2, one output number at a time."""
    out_channels, per_group, kernel, _ = weight.shape
    pad = kernel // 2
    _, height, width = x.shape
    y = np.zeros((out_channels, (height + stride - 1) // stride, (width + stride - 1) // stride))
    for o, i, j in np.ndindex(*y.shape):
        first = o // (out_channels // groups) * per_group
        for c, di, dj in np.ndindex(per_group, kernel, kernel):
            row, column = i * stride + di - pad, j * stride + dj - pad
            if 0 <= row < height and 0 <= column < width:
                y[o, i, j] += x[first + c, row, column] * weight[o, c, di, dj]
    return y


def naive_bn(arrays: dict[str, NDArray[np.float32]], key: str, y: Array) -> Array:
    out = np.empty_like(y)
    for channel in range(len(y)):
        mean, variance, gamma, beta = (
            float(arrays[f"{key}._batch_norm.{name}"][channel]) for name in ("_mean", "_variance", "weight", "bias")
        )
        out[channel] = (y[channel] - mean) / (variance + 1e-5) ** 0.5 * gamma + beta
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(7, 6), (1, 1), (4, 5)])
def test_convolutions_are_the_definition(stride: int, height: int, width: int) -> None:
    architecture = Architecture.of(0.1, 2)
    arrays = random_arrays(architecture)
    rng = np.random.default_rng(1)
    image = rng.normal(size=(3, height, width))
    weight = arrays["conv1._conv.weight"].astype(np.float64)
    layer = replace(architecture.stem, stride=stride)
    expected = naive_bn(arrays, "conv1", naive_conv(image, weight, stride, 1))
    np.testing.assert_allclose(apply_layer(arrays, layer, image), expected, atol=1e-12)

    strided, narrow = architecture.blocks[3].depthwise, architecture.blocks[1].shortcut
    assert strided is not None
    assert narrow is not None
    for layer, key in (
        (strided, "_ghostbottleneck_3.depthwise_conv"),
        (narrow[0], "_ghostbottleneck_1.shortcut_depthwise"),
    ):
        weight = arrays[f"{key}._conv.weight"].astype(np.float64)
        x = rng.normal(size=(len(weight), height, width))
        expected = naive_bn(arrays, key, naive_conv(x, weight, stride, len(weight)))
        np.testing.assert_allclose(apply_layer(arrays, replace(layer, stride=stride), x), expected, atol=1e-12)

    weight = arrays["_ghostbottleneck_1.shortcut_conv._conv.weight"].astype(np.float64)
    x = rng.normal(size=(weight.shape[1], height, width))
    expected = naive_bn(arrays, "_ghostbottleneck_1.shortcut_conv", naive_conv(x, weight, 1, 1))
    np.testing.assert_allclose(apply_layer(arrays, narrow[1], x), expected, atol=1e-12)


def test_shapes_and_independence_of_the_batch() -> None:
    architecture = Architecture.of(0.1, 3)
    arrays = random_arrays(architecture)
    images = np.random.default_rng(0).normal(size=(3, 3, 33, 40)).astype(np.float32)
    kept = images.copy()
    logits, embedding = reference_forward(arrays, architecture, images)
    assert (logits.shape, embedding.shape) == ((3, 3), (3, 1280))
    assert logits.dtype == embedding.dtype == np.float32
    assert (embedding >= 0).all()
    assert (embedding > 0).any()
    np.testing.assert_array_equal(images, kept)
    alone, _ = reference_forward(arrays, architecture, images[1:2])
    np.testing.assert_array_equal(alone[0], logits[1])
    expected = embedding @ arrays["fc_1.weight"] + arrays["fc_1.bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", ["conv1._batch_norm._mean", "_ghostbottleneck_4.se_block.squeeze.bias", "fc_1.bias"])
def test_every_kind_of_tensor_matters(key: str) -> None:
    architecture = Architecture.of(0.1, 3)
    arrays = random_arrays(architecture)
    images = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    before, _ = reference_forward(arrays, architecture, images)
    after, _ = reference_forward({**arrays, key: arrays[key] + 1}, architecture, images)
    assert np.abs(before - after).max() > 1e-4

"""Which network a weight file holds: its family, width and class count, from the keys and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError
from ..network.architecture import Architecture
from ..network.families import (
    GHOSTNET,
    GHOSTNETV2,
    GHOSTNETV3,
    LAST_CHANNELS,
    PADDLE_GHOSTNET,
    REPGHOSTNET,
    Family,
    make_divisible,
)

LAST_LAYERS = ("fc_1.weight", "classifier.weight")
"""Every network has one of these keys: PaddleClas's the first, timm's the second."""
MAX_KEY_SHOWN = 160

# Steps of candidate widths per 1.0: thousandths first, then finer ones, within which one channel count changes at most.
_WIDTH_STEPS = (1_000, 100_000)
_MAX_LISTED_KEYS = 10
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params")
"""What PyTorch's batch-norm, and the tool that counted the operations of Huawei's networks, leave among the tensors."""


def without_extras(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is no weight, and give Huawei's keys the names that timm has for them."""
    if LAST_LAYERS[0] in entries:
        return dict(entries)
    return {key.replace(".bn.", ".bn1."): value for key, value in entries.items() if not key.endswith(_COUNTERS)}


def infer_architecture(arrays: Mapping[str, NDArray[np.float32]]) -> Architecture:
    """Infer the family, the width and the number of classes.

    Raises:
        WeightsError: a tensor needed for this is missing, or no width has these shapes.
    """
    family, fused = _infer_family(arrays)
    pattern = Architecture.of(1.0, 1, family, fused=fused)
    head, tail = (layer.branches[0] for layer in (pattern.classifier, pattern.last))
    weight, last = arrays.get(head.weight), arrays.get(tail.weight)
    if weight is None or last is None or weight.ndim != 2 or last.ndim != 4:
        raise WeightsError(
            "these are no GhostNet weights with PaddleClas's or timm's keys: "
            f"{head.weight} (2-D) and {tail.weight} (4-D) are needed, found {shorten(sorted(arrays))}."
        )
    candidates = _candidate_widths(last.shape[0], _WIDTH_STEPS[0])
    if not candidates:
        raise WeightsError(f"no width has {last.shape[0]} channels in {tail.weight}; are these other weights?")
    num_classes = max(1, weight.shape[1 if head.transposed else 0])
    for width in chain.from_iterable(_candidate_widths(last.shape[0], steps) for steps in _WIDTH_STEPS):
        architecture = Architecture.of(width, num_classes, family, fused=fused)
        if all(
            _channels(arrays, layer.branches[0].weight) == layer.out_channels
            for block in architecture.blocks
            for layer in (block.ghost2.cheap, block.ghost1.cheap)
        ):
            return architecture
    # No width fits every block: take one that fits the last layer, so that the check reports all misfits at once.
    return Architecture.of(candidates[0], num_classes, family, fused=fused)


def _infer_family(keys: Collection[str]) -> tuple[Family, bool]:
    """Return the family, and whether the branches of its training are added up already."""
    if LAST_LAYERS[1] not in keys or LAST_LAYERS[0] in keys:
        return PADDLE_GHOSTNET, False
    first = "blocks.0.0.ghost1"
    if f"{first}.fusion_bn.0.weight" in keys or f"{first}.cheap_operation.weight" in keys:
        return REPGHOSTNET, f"{first}.cheap_operation.weight" in keys
    if f"{first}.primary_rpr_conv.0.conv.weight" in keys or f"{first}.primary_conv.0.bias" in keys:
        return GHOSTNETV3, f"{first}.primary_conv.0.bias" in keys
    return (GHOSTNETV2 if any(".short_conv." in key for key in keys) else GHOSTNET), False


def _channels(arrays: Mapping[str, NDArray[np.float32]], key: str) -> int:
    array = arrays.get(key)
    return array.shape[0] if array is not None and array.ndim else 0


@lru_cache(maxsize=16)
def _candidate_widths(last_channels: int, steps: int) -> tuple[float, ...]:
    """Widths (multiples of 1 / ``steps``, rounder ones first) whose last convolution has ``last_channels`` channels."""
    low, high = max(1, last_channels - 4), last_channels + 4
    widths = [step / steps for step in range(low * steps // LAST_CHANNELS, high * steps // LAST_CHANNELS + 2) if step]
    fitting = [width for width in widths if width <= 64 and make_divisible(LAST_CHANNELS * width) == last_channels]
    return tuple(sorted(fitting, key=lambda width: (len(repr(width)), width)))


def check_weights(arrays: Mapping[str, NDArray[np.float32]], architecture: Architecture) -> None:
    """Check that the tensors are exactly those of ``architecture``, and finite.

    Raises:
        WeightsError: lists all missing, unexpected, mis-shaped and non-finite tensors.
    """
    expected = architecture.state_shapes()
    missing = [key for key in expected if key not in arrays]
    unexpected = [key for key in arrays if key not in expected]
    misshaped = [
        f"{key} {arrays[key].shape} instead of {shape}"
        for key, shape in expected.items()
        if key in arrays and arrays[key].shape != shape
    ]
    broken = [key for key in expected if key in arrays and not np.isfinite(arrays[key]).all()]
    broken += [
        f"{key} below zero"
        for key in (branch.norm.variance for layer in architecture.layers() for branch in layer.branches if branch.norm)
        if key in arrays and arrays[key].size and arrays[key].min() < 0
    ]
    problems = {"missing": missing, "unexpected": unexpected, "mis-shaped": misshaped, "not finite": broken}
    found = [f"{len(keys)} {kind}: {shorten(keys)}" for kind, keys in problems.items() if keys]
    if found:
        raise WeightsError(
            f"the weights do not fit {architecture.title} with {architecture.num_classes} classes; "
            + "; ".join(found)
            + ". Check the model name and the file."
        )


def shorten(items: list[str]) -> str:
    """List some keys from a file, safe to print."""
    shown = ", ".join(map(_shown, items[:_MAX_LISTED_KEYS]))
    return shown + (f" and {len(items) - _MAX_LISTED_KEYS} more" if len(items) > _MAX_LISTED_KEYS else "") or "nothing"


def _shown(item: str) -> str:
    """Make a key from the file safe to print: no control codes, no lone surrogates, not too long."""
    item = item if len(item) <= MAX_KEY_SHOWN else f"{item[:MAX_KEY_SHOWN]}..."
    return item if item.isprintable() else ascii(item)

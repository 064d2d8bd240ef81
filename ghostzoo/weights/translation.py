"""GhostNet's weights from PaddleClas's form to timm's and back, exact up to the rounding of float32.

The two differ in the gate of squeeze-and-excitation, clip(x, 0, 1) there and relu6(y + 3) / 6 here, which is the same
for y = 6 x - 3; in the rounding of its middle channels, of which timm has more at some widths; and in the layer before
the last, which has a batch-norm there and a bias here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError
from ..network.architecture import Architecture
from ..network.families import GHOSTNET, PADDLE_GHOSTNET
from ..network.layers import BATCH_NORM_EPSILON, Branch, Layer

FORMS = {"timm": GHOSTNET, "paddle": PADDLE_GHOSTNET}

_Arrays = dict[str, NDArray[np.float32]]
_Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def translate(
    arrays: Mapping[str, NDArray[np.float32]], architecture: Architecture, form: str
) -> tuple[_Arrays, Architecture]:
    """Return a GhostNet's tensors in the other form.

    Args:
        arrays: tensors under their source's keys, as ``check_weights`` admits them.
        architecture: theirs.
        form: ``timm`` or ``paddle``.

    Raises:
        WeightsError: they are of another family, have that form already, or have more gate channels than it has.
    """
    family = FORMS[form]
    if architecture.family not in FORMS.values() or architecture.family == family:
        raise WeightsError(
            f"weights of {architecture.title} have no other form as {form}'s: GhostNet alone has two, PaddleClas's and "
            "timm's."
        )
    other = Architecture.of(architecture.width, architecture.num_classes, family)
    to_timm = family == GHOSTNET
    result: _Arrays = {}
    gates = {id(layer) for block in architecture.blocks for layer in block.gate or ()}
    for source, target in zip(architecture.layers(), other.layers(), strict=True):
        if id(source) in gates:
            continue
        if source.has_norm and target.has_norm:
            result.update(zip(_keys(target), (np.array(arrays[key]) for key in _keys(source)), strict=True))
        else:
            _put(result, target, source.folded(arrays))
    for source_block, target_block in zip(architecture.blocks, other.blocks, strict=True):
        if source_block.gate is not None and target_block.gate is not None:
            (weight, bias), (excite, offset) = (layer.folded(arrays) for layer in source_block.gate)
            excite, offset = (6 * excite, 6 * offset - 3) if to_timm else (excite / 6, offset / 6 + 0.5)
            units = _units(weight, bias, excite, target_block.se_channels, source_block.gate[0].name)
            weight, bias, excite = (_padded(each, target_block.se_channels) for each in units)
            squeeze_layer, excite_layer = target_block.gate
            _put(result, squeeze_layer, (weight, bias))
            _put(result, excite_layer, (excite.swapaxes(0, 1), offset))
    return {key: result[key] for key in other.state_shapes()}, other


def _units(
    weight: NDArray[np.float64], bias: NDArray[np.float64], excite: NDArray[np.float64], count: int, name: str
) -> tuple[NDArray[np.float64], ...]:
    """The middle channels of a gate, at most ``count`` of them: those without effect are left out where they must be.

    Returns:
        Weights and biases of the first layer, and weights of the second with the middle channels first.
    """
    excite = excite.swapaxes(0, 1)
    surplus = len(weight) - count
    kept = np.ones(len(weight), bool)
    if surplus > 0:
        idle = ~excite.reshape(len(excite), -1).any(axis=1)
        idle |= ~(weight.reshape(len(weight), -1).any(axis=1)) & (bias <= 0)
        unused = np.flatnonzero(idle)[::-1][:surplus]
        if len(unused) < surplus:
            raise WeightsError(
                f"{name} has {len(weight)} channels, in the other form {count}, and only {len(unused)} have no effect; "
                "such weights cannot have that form."
            )
        kept[unused] = False
    return weight[kept], bias[kept], excite[kept]


def _padded(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    return np.pad(values, ((0, count - len(values)), *((0, 0),) * (values.ndim - 1)))


def _keys(layer: Layer) -> Iterator[str]:
    for key, _ in layer.state_shapes():
        yield key


def _put(result: _Arrays, layer: Layer, values: _Pair) -> None:
    """Write a convolution with a bias as ``layer`` has it: as it is, or with a batch-norm that does nothing else."""
    branch = layer.branches[0]
    weight, bias = (each.astype(np.float32) for each in values)
    result[branch.weight] = _as_stored(weight, branch)
    if branch.norm is None:
        result[branch.bias] = bias
        return
    result[branch.norm.gamma], result[branch.norm.beta] = np.ones_like(bias), bias
    result[branch.norm.mean] = np.zeros_like(bias)
    result[branch.norm.variance] = np.full_like(bias, 1 - BATCH_NORM_EPSILON)


def _as_stored(weight: NDArray[np.float32], branch: Branch) -> NDArray[np.float32]:
    if branch.transposed:
        weight = weight[:, :, 0, 0].T
    return np.ascontiguousarray(weight).reshape(branch.stored)

"""The families of networks as data: what tells one from another, and where their weights are in a file.

Pure Python. Rows, rounding and keys are those of the sources:

- PaddleClas, ``ppcls/arch/backbone/model_zoo/ghostnet.py``: GhostNet;
- timm, ``timm/models/ghostnet.py``: GhostNet as its authors have it, GhostNetV2 and GhostNetV3;
- timm, ``timm/models/repghost.py``: RepGhostNet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_DIVISOR = 4
_SE_REDUCTION = 4


def make_divisible(value: float, divisor: int = _DIVISOR) -> int:
    """Round to the nearest multiple of ``divisor``, never below it and never below 0.9 of ``value``."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class Row:
    """One block, at width 1.0."""

    kernel: int
    hidden: int
    out: int
    has_gate: bool
    stride: int


# kernel, output channels, squeeze-and-excitation, stride
_SHAPES = (
    (3, 16, False, 1),
    (3, 24, False, 2),
    (3, 24, False, 1),
    (5, 40, True, 2),
    (5, 40, True, 1),
    (3, 80, False, 2),
    (3, 80, False, 1),
    (3, 80, False, 1),
    (3, 80, False, 1),
    (3, 112, True, 1),
    (3, 112, True, 1),
    (5, 160, True, 2),
    (5, 160, False, 1),
    (5, 160, True, 1),
    (5, 160, False, 1),
    (5, 160, True, 1),
)
_GHOST_HIDDEN = (16, 48, 72, 72, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960, 960, 960)
_REPGHOST_HIDDEN = (8, 24, 36, 36, 60, 120, 100, 120, 120, 240, 336, 336, 480, 480, 480, 480)
LAST_CHANNELS = 960
"""Channels of the last convolution before the pooling, at width 1.0; the same in all families."""
STEM_CHANNELS = 16


def _rows(hidden: tuple[int, ...]) -> tuple[Row, ...]:
    return tuple(
        Row(kernel, each, out, has_gate, stride)
        for (kernel, out, has_gate, stride), each in zip(_SHAPES, hidden, strict=True)
    )


@dataclass(frozen=True)
class Part:
    """A branch of a layer in a file, by the beginnings of its keys."""

    weight: str
    """Empty for the layer's input as it is."""
    norm: str = ""
    """Empty where there is a bias instead, beside the weight."""
    kernel: int | None = None
    """Where it is smaller than the layer's."""


@dataclass(frozen=True)
class Keys:
    """How a source names the tensors."""

    layers: Mapping[str, tuple[Part, ...]]
    """Layer -> its branches; within a block, their keys are relative to it."""
    mean: str = "running_mean"
    variance: str = "running_var"
    transposed: bool = False
    """Whether Linear layers, those of the gate among them, are stored as (in, out)."""
    blocks: tuple[str, ...] = ()
    """The beginning of each block's keys."""


def _sequence(key: str, first: int = 0) -> tuple[Part]:
    """A convolution and a batch-norm in a sequence of PyTorch modules."""
    return (Part(f"{key}.{first}", f"{key}.{first + 1}"),)


def _paddle(key: str) -> tuple[Part]:
    return (Part(f"{key}._conv", f"{key}._batch_norm"),)


_PADDLE = Keys(
    {
        "stem": _paddle("conv1"),
        "ghost1.primary": _paddle("ghost_module_1.primary_conv"),
        "ghost1.cheap": _paddle("ghost_module_1.cheap_operation"),
        "depthwise": _paddle("depthwise_conv"),
        "se.squeeze": (Part("se_block.squeeze"),),
        "se.excite": (Part("se_block.excitation"),),
        "ghost2.primary": _paddle("ghost_module_2.primary_conv"),
        "ghost2.cheap": _paddle("ghost_module_2.cheap_operation"),
        "shortcut.depthwise": _paddle("shortcut_depthwise"),
        "shortcut.pointwise": _paddle("shortcut_conv"),
        "head.last": _paddle("conv_last"),
        "head.hidden": _paddle("fc_0"),
        "head.logits": (Part("fc_1"),),
    },
    mean="_mean",
    variance="_variance",
    transposed=True,
    blocks=tuple(f"_ghostbottleneck_{index}." for index in range(len(_SHAPES))),
)
_TIMM_STAGES = (1, 1, 1, 1, 1, 1, 5, 1, 4)
_TIMM = Keys(
    {
        "stem": (Part("conv_stem", "bn1"),),
        "ghost1.primary": _sequence("ghost1.primary_conv"),
        "ghost1.cheap": _sequence("ghost1.cheap_operation"),
        "attention.pointwise": _sequence("ghost1.short_conv"),
        "attention.horizontal": _sequence("ghost1.short_conv", 2),
        "attention.vertical": _sequence("ghost1.short_conv", 4),
        "depthwise": (Part("conv_dw", "bn_dw"),),
        "se.squeeze": (Part("se.conv_reduce"),),
        "se.excite": (Part("se.conv_expand"),),
        "ghost2.primary": _sequence("ghost2.primary_conv"),
        "ghost2.cheap": _sequence("ghost2.cheap_operation"),
        "shortcut.depthwise": _sequence("shortcut"),
        "shortcut.pointwise": _sequence("shortcut", 2),
        "head.last": (Part(f"blocks.{len(_TIMM_STAGES)}.0.conv", f"blocks.{len(_TIMM_STAGES)}.0.bn1"),),
        "head.hidden": (Part("conv_head"),),
        "head.logits": (Part("classifier"),),
    },
    blocks=tuple(f"blocks.{stage}.{block}." for stage, count in enumerate(_TIMM_STAGES) for block in range(count)),
)


def _several(key: str, *more: Part) -> tuple[Part, ...]:
    """The three equal branches that GhostNetV3 trains, and further ones."""
    return (*(Part(f"{key}.{index}.conv", f"{key}.{index}.bn1") for index in range(3)), *more)


def _of_both(branches: Callable[[str], dict[str, tuple[Part, ...]]]) -> dict[str, tuple[Part, ...]]:
    return {f"{module}.{layer}": parts for module in ("ghost1", "ghost2") for layer, parts in branches(module).items()}


_REPGHOST_BRANCHES = _of_both(
    lambda module: {"cheap": (*_sequence(f"{module}.cheap_operation"), Part("", f"{module}.fusion_bn.0"))}
)
_REPGHOST_FUSED = _of_both(lambda module: {"cheap": (Part(f"{module}.cheap_operation"),)})
_V3_BRANCHES = {
    **_of_both(
        lambda module: {
            "primary": _several(f"{module}.primary_rpr_conv"),
            "cheap": _several(
                f"{module}.cheap_rpr_conv",
                Part(f"{module}.cheap_rpr_scale.conv", f"{module}.cheap_rpr_scale.bn1", kernel=1),
                Part("", f"{module}.cheap_rpr_skip"),
            ),
        }
    ),
    "depthwise": _several("dw_rpr_conv", Part("dw_rpr_scale.conv", "dw_rpr_scale.bn1", kernel=1)),
}
_V3_FUSED = {
    **_of_both(
        lambda module: {"primary": (Part(f"{module}.primary_conv.0"),), "cheap": (Part(f"{module}.cheap_operation.0"),)}
    ),
    "depthwise": (Part("conv_dw"),),
}


@dataclass(frozen=True, eq=False, repr=False)
class Family:
    """Networks that differ in their width only. The name is that of the models, without their width."""

    name: str
    title: str
    """For people."""
    rows: tuple[Row, ...]
    keys: Keys
    hard_sigmoid: bool = True
    """Whether the gate of squeeze-and-excitation is relu6(x + 3) / 6, and not clip(x, 0, 1)."""
    rounds_squeezed: bool = True
    """Whether the middle channels of squeeze-and-excitation are rounded as all others, and not down."""
    joins: bool = True
    """Whether a ghost module gives both its halves, and not the result of the cheap operation alone."""
    attention_from: int | None = None
    """First block with decoupled fully connected attention (DFC) on its first ghost module."""
    branches: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    """The layers that are trained with several branches."""
    fused: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    """The same layers in files whose branches have been added up already."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Family) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return self.name

    def squeezed(self, hidden: int) -> int:
        """Middle channels of the gate of ``hidden`` channels."""
        return make_divisible(hidden / _SE_REDUCTION) if self.rounds_squeezed else hidden // _SE_REDUCTION

    def parts(self, layer: str, fused: bool) -> tuple[Part, ...]:
        """The branches of a layer in a file."""
        return (self.fused if fused else self.branches).get(layer) or self.keys.layers[layer]


PADDLE_GHOSTNET = Family(
    "ghostnet_paddle",
    "GhostNet",
    _rows(_GHOST_HIDDEN),
    _PADDLE,
    hard_sigmoid=False,
    rounds_squeezed=False,
)
GHOSTNET = Family("ghostnet", "GhostNet (timm)", _rows(_GHOST_HIDDEN), _TIMM)
REPGHOSTNET = Family(
    "repghostnet",
    "RepGhostNet",
    _rows(_REPGHOST_HIDDEN),
    _TIMM,
    joins=False,
    branches=_REPGHOST_BRANCHES,
    fused=_REPGHOST_FUSED,
)
GHOSTNETV2 = Family("ghostnetv2", "GhostNetV2", _rows(_GHOST_HIDDEN), _TIMM, attention_from=2)
GHOSTNETV3 = Family(
    "ghostnetv3",
    "GhostNetV3",
    _rows(_GHOST_HIDDEN),
    _TIMM,
    attention_from=2,
    branches=_V3_BRANCHES,
    fused=_V3_FUSED,
)
FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (PADDLE_GHOSTNET, GHOSTNET, REPGHOSTNET, GHOSTNETV2, GHOSTNETV3)
}
"""By name."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostzoo.network.architecture import EMBEDDING_SIZE, Architecture, make_divisible
from ghostzoo.weights.params import read_weights


@settings(deadline=None)
@given(st.floats(0.01, 5000))
def test_rounding_is_to_the_nearest_multiple_and_never_far_below(value: float) -> None:
    rounded = make_divisible(value)
    assert rounded % 4 == 0
    assert rounded >= 4
    assert rounded >= 0.9 * value
    assert rounded <= max(4, value + 4)


@pytest.mark.parametrize(
    ("value", "rounded"), [(16, 16), (8, 8), (20.8, 20), (22, 24), (5.9, 8), (1, 4), (4.5, 8), (62.4, 64), (936, 936)]
)
def test_rounding_as_the_original_rounds(value: float, rounded: int) -> None:
    assert make_divisible(value) == rounded


def test_the_full_width_has_the_channels_of_the_paper() -> None:
    architecture = Architecture.of(1.0, 1000)
    assert architecture.stem_channels == 16
    assert architecture.last_channels == 960
    rows = [(b.kernel, b.hidden_channels, b.out_channels, b.se_channels, b.stride) for b in architecture.blocks]
    assert rows[0] == (3, 16, 16, 0, 1)
    assert rows[3] == (5, 72, 40, 18, 2)
    assert rows[9] == (3, 480, 112, 120, 1)
    assert rows[-1] == (5, 960, 160, 240, 1)
    assert [b.index for b in architecture.blocks if b.stride == 2] == [1, 3, 5, 11]
    assert [b.index for b in architecture.blocks if b.se_channels] == [3, 4, 9, 10, 11, 13, 15]
    assert [b.index for b in architecture.blocks if not b.has_identity_shortcut] == [1, 3, 5, 9, 11]


@pytest.mark.parametrize("width", [0.01, 0.1, 0.35, 0.5, 0.75, 1.0, 1.3, 2.0, 7.77])
def test_blocks_join_and_have_halves(width: float) -> None:
    architecture = Architecture.of(width, 5)
    channels = architecture.stem_channels
    for block in architecture.blocks:
        assert block.in_channels == channels
        assert block.hidden_channels % 4 == block.out_channels % 4 == 0
        channels = block.out_channels


@pytest.mark.parametrize(("name", "width"), [("x0_5", 0.5), ("x1_0", 1.0), ("x1_3", 1.3)])
def test_state_dict_is_the_official_one(shared: Path, name: str, width: float) -> None:
    weights = read_weights(shared / "reference" / f"GhostNet_{name}_pretrained.pdparams")
    assert {key: array.shape for key, array in weights.arrays.items()} == Architecture.of(width, 1000).state_shapes()


@pytest.mark.parametrize("width", [0.25, 1.0, 1.3])
def test_parameters_are_the_state_without_statistics(width: float) -> None:
    architecture = Architecture.of(width, 10)
    state = architecture.state_shapes()
    statistics = sum(math.prod(shape) for key, shape in state.items() if key.endswith(("_mean", "_variance")))
    assert architecture.count_parameters() == sum(map(math.prod, state.values())) - statistics
    assert state["fc_1.weight"] == (EMBEDDING_SIZE, 10)
    wider = Architecture.of(width, 11)
    assert wider.count_parameters() - architecture.count_parameters() == EMBEDDING_SIZE + 1
    assert wider.count_multiply_adds(224) - architecture.count_multiply_adds(224) == EMBEDDING_SIZE


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_impossible_widths_are_refused(width: float) -> None:
    with pytest.raises(ValueError, match="width"):
        Architecture.of(width, 10)


@pytest.mark.parametrize("num_classes", [0, -1])
def test_impossible_class_counts_are_refused(num_classes: int) -> None:
    with pytest.raises(ValueError, match="num_classes"):
        Architecture.of(1.0, num_classes)


# Trainable parameters and multiply-adds in millions at 224 pixels, as PyTorch counts them in timm's fused networks, and
# the tensors in its state dict without the counters of batches, before and after fusing.
OF_TIMM = {
    "ghostnet_050": (2.587, 42.33, 432, 432),
    "ghostnet_100": (5.183, 141.15, 432, 432),
    "ghostnet_130": (7.359, 227.00, 432, 432),
    "ghostnetv2_100": (6.157, 167.05, 642, 642),
    "ghostnetv2_130": (8.960, 269.32, 642, 642),
    "ghostnetv2_160": (12.393, 398.61, 642, 642),
    "ghostnetv3_050": (2.853, 49.64, 1630, 438),
    "ghostnetv3_100": (6.148, 167.05, 1630, 438),
    "ghostnetv3_130": (8.948, 269.32, 1630, 438),
    "ghostnetv3_160": (12.378, 398.61, 1630, 438),
    "repghostnet_050": (2.307, 43.31, 560, 336),
    "repghostnet_058": (2.538, 59.80, 560, 336),
    "repghostnet_080": (3.267, 95.52, 560, 336),
    "repghostnet_100": (4.059, 142.39, 560, 336),
    "repghostnet_111": (4.524, 170.12, 560, 336),
    "repghostnet_130": (5.459, 231.12, 560, 336),
    "repghostnet_150": (6.553, 301.32, 560, 336),
    "repghostnet_200": (9.766, 515.87, 560, 336),
    "ghostnet_400": (47.843, 1947.338, 432, 432),  # at this width no number of channels is rounded
    "repghostnet_400": (29.974, 1959.904, 560, 336),
}


@pytest.mark.parametrize("name", OF_TIMM)
def test_families_have_the_sizes_of_timm(name: str) -> None:
    parameters, multiply_adds, trained, fused = OF_TIMM[name]
    architecture = Architecture.named(name)
    assert architecture.count_parameters() / 1e6 == pytest.approx(parameters, abs=5e-4)
    assert architecture.count_multiply_adds(224) / 1e6 == pytest.approx(multiply_adds, abs=5e-3)
    shapes = architecture.state_shapes()
    assert len(shapes) == trained
    assert {shape[2:] for key, shape in shapes.items() if "rpr_scale.conv" in key} <= {(1, 1)}
    added_up = Architecture.of(architecture.width, 1000, architecture.family, fused=True)
    assert len(added_up.state_shapes()) == fused
    assert added_up.count_parameters() == architecture.count_parameters()


@pytest.mark.parametrize("name", ["ghostnet", "ghostnet_000", "ghostnetv4_100", "mobilenet_100", "GhostNet_x1_0", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="repghostnet_100"):
        Architecture.named(name)

"""Weights with timm's keys: what they are is seen, and GhostNet's go over into PaddleClas's form and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ghostzoo.errors import OptionError, WeightsError
from ghostzoo.exchange import rewrite_weights
from ghostzoo.network.architecture import Architecture
from ghostzoo.network.families import FAMILIES
from ghostzoo.network.reference import reference_forward
from ghostzoo.parity import compare_logits
from ghostzoo.weights.params import read_weights
from ghostzoo.weights.safetensors import dump_safetensors, load_safetensors
from ghostzoo.weights.translation import translate
from tests.fixtures.checkpoints import safetensors
from tests.fixtures.limited import run_limited
from tests.fixtures.networks import random_arrays, write_weights
from tests.weights.test_safetensors import MUTANTS, MUTATED

KINDS = [(name, fused) for name, family in FAMILIES.items() for fused in (False, True) if family.fused or not fused]


def write(path: Path, arrays: dict[str, Any]) -> Path:
    path.write_bytes(safetensors(arrays))
    return path


@pytest.mark.parametrize("width", [0.25, 0.58, 1.0, 1.11])
@pytest.mark.parametrize(("family", "fused"), KINDS)
def test_family_width_and_classes_are_seen(family: str, fused: bool, width: float, tmp_path: Path) -> None:
    architecture = Architecture.of(width, 5, FAMILIES[family], fused=fused)
    arrays = {key: np.ones(shape, "<f4") for key, shape in architecture.state_shapes().items()}
    counters = {"bn1.num_batches_tracked": np.array(7), "total_ops": np.ones(1)}
    path = write(tmp_path / "w.safetensors", arrays | (counters if family != "ghostnet_paddle" else {}))
    found = read_weights(path).architecture
    assert (found.family, found.channels, found.num_classes) == (architecture.family, architecture.channels, 5)
    assert found.state_shapes() == architecture.state_shapes()


def test_the_names_of_huawei_and_prefixes_are_read(tmp_path: Path) -> None:
    arrays = random_arrays(Architecture.named("ghostnetv3_010", 2))
    theirs = {f"module.{key.replace('.bn1.', '.bn.') if 'rpr' in key else key}": each for key, each in arrays.items()}
    assert theirs.keys() != arrays.keys()
    read = read_weights(write(tmp_path / "w.safetensors", theirs))
    assert read.prefix == "module."
    assert read.arrays.keys() == arrays.keys()


def test_weights_of_another_family_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", random_arrays(Architecture.named("repghostnet_050", 2)))
    with pytest.raises(WeightsError, match=r"of RepGhostNet of width 0\.5, not GhostNet of width 0\.5 as was asked"):
        read_weights(path, width=0.5)
    mobile = {"classifier.weight": np.ones((2, 1280), "<f4"), "conv_stem.weight": np.ones((16, 3, 3, 3), "<f4")}
    with pytest.raises(WeightsError, match="no GhostNet weights with PaddleClas's or timm's keys"):
        read_weights(write(tmp_path / "m.safetensors", mobile))


def test_written_safetensors_are_read_exactly() -> None:
    arrays = {"a": np.arange(6, dtype="<f4").reshape(2, 3).T, "b": np.float32(2).reshape(())}
    read = load_safetensors(dump_safetensors(arrays))
    assert list(read) == ["a", "b"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ghostnetv3_035", "repghostnet_025"])
def test_mutated_files_are_read_or_one_sentence(name: str, tmp_path: Path) -> None:
    original = write(tmp_path / "original.safetensors", random_arrays(Architecture.named(name, 1)))
    ended = run_limited(MUTATED, original, tmp_path / "mutant.safetensors", memory_mb=1024, seconds=240)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert int(ended.stdout) < MUTANTS // 10


@pytest.mark.parametrize("width", [0.5, 1.0, 1.3])
def test_paddle_weights_go_to_timm_and_back(width: float, tmp_path: Path) -> None:
    architecture = Architecture.of(width, 7)
    arrays = random_arrays(architecture)
    weights = write_weights(tmp_path / "w.pdparams", arrays)
    (tmp_path / "labels.txt").write_text("\n".join("abcdefg"))
    file = rewrite_weights(weights, tmp_path / "timm", form="timm", labels=tmp_path / "labels.txt")
    there = read_weights(file)
    assert there.architecture.name == f"ghostnet_{100 * width:03.0f}"
    back = read_weights(rewrite_weights(file, tmp_path / "back.pdparams", form="paddle"), width=width)
    assert {key: array.shape for key, array in back.arrays.items()} == architecture.state_shapes()
    pixels = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    expected, _ = reference_forward(arrays, architecture, pixels)
    for other in (there, back):
        logits, _ = reference_forward(other.arrays, other.architecture, pixels)
        assert compare_logits(expected, logits).within(5e-7)


def test_gates_that_paddle_has_no_room_for_are_refused() -> None:
    architecture = Architecture.named("ghostnet_100", 2)
    with pytest.raises(WeightsError, match=r"has 20 channels, in the other form 18, and only 0 have no effect"):
        translate(random_arrays(architecture), architecture, "paddle")
    rep = Architecture.named("repghostnet_050", 2)
    with pytest.raises(WeightsError, match="GhostNet alone has two"):
        translate(random_arrays(rep), rep, "paddle")


@pytest.mark.parametrize("bias", [-1.0, 1.0])
def test_a_unit_that_is_always_on_has_an_effect(bias: float) -> None:
    """One without weights that is left out would take what its bias adds with it."""
    architecture = Architecture.named("ghostnet_100", 2)
    arrays = {key: array.copy() for key, array in random_arrays(architecture).items()}
    for block in architecture.blocks:
        if block.gate:
            squeeze = block.gate[0]
            weight, offset = (key for key, _ in squeeze.state_shapes())
            arrays[weight][-4:], arrays[offset][-4:] = 0, bias
    if bias > 0:
        with pytest.raises(WeightsError, match="only 0 have no effect"):
            translate(arrays, architecture, "paddle")
    else:
        translate(arrays, architecture, "paddle")


def test_existing_files_stay_unless_told(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "w.pdparams", random_arrays(Architecture.of(0.5, 1000)))
    rewrite_weights(weights, tmp_path / "timm", form="timm")
    with pytest.raises(OptionError, match=r"model\.safetensors and .*config\.json exists"):
        rewrite_weights(weights, tmp_path / "timm", form="timm")
    rewrite_weights(weights, tmp_path / "timm", form="timm", overwrite=True)

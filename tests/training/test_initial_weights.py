from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exporters.torch_network import official_arrays
from exporters.training.command import choose_network
from exporters.training.pretrained import find_bundle, head_rows, initial_network
from ghostzoo.bundle.folder import Bundle
from ghostzoo.weights.params import read_weights
from tests.training.runs import EMBEDDED, recipe, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_classes(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two") / "two"
    for name in ("disc", "stripes"):
        shutil.copytree(pictures / name, root / f"{name} of mine")
    return root


def is_head(key: str) -> bool:
    return key.startswith("fc_1.")


def test_a_frozen_backbone_is_kept_bit_for_bit(finished: Path, two_classes: Path, tmp_path: Path) -> None:
    """Batch-norm statistics included, and with a moving average of all."""
    before = read_weights(finished / "weights.pdparams")
    options = ("--init", finished / "weights.pdparams", "--freeze-backbone", "--epochs=2", "--ema=0.5")
    train("--data", two_classes, "--out", tmp_path / "run", *options).check()
    after = read_weights(tmp_path / "run" / "weights.pdparams", num_classes=2)
    assert all(np.array_equal(after.arrays[key], array) for key, array in before.arrays.items() if not is_head(key))
    head = initial_network(recipe(), 2, before)
    assert not np.array_equal(after.arrays["fc_1.weight"], official_arrays(head)["fc_1.weight"])
    validation = Bundle.open(tmp_path / "run" / "bundle").manifest.validation
    assert validation["starting_point"] == "weights.pdparams, with a new head for 2 classes"


def test_a_free_backbone_learns_on_from_its_weights(finished: Path, two_classes: Path, tmp_path: Path) -> None:
    before = read_weights(finished / "weights.pdparams").arrays
    options = ("--init", finished / "weights.pdparams", "--epochs=1", "--learning-rate=1e-6", "--new-statistics")
    train("--data", two_classes, "--out", tmp_path / "run", *options).check()
    after = read_weights(tmp_path / "run" / "weights.pdparams").arrays
    convolutions = [key for key in before if key.endswith("_conv.weight")]
    assert all(np.allclose(after[key], before[key], atol=1e-3) for key in convolutions)
    assert any(not np.array_equal(after[key], before[key]) for key in convolutions)


def test_the_head_is_kept_class_by_class(finished: Path) -> None:
    weights, bundle = read_weights(finished / "weights.pdparams"), Bundle.open(finished / "bundle")
    for classes, rows in (
        (("disc", "plain", "stripes"), (0, 1, 2)),
        (("stripes", "disc"), (2, 0)),
        (("disc", "plain", "waves"), None),
    ):
        assert head_rows(weights, bundle, classes) == rows
    arrays = official_arrays(initial_network(recipe(), 2, weights, (2, 0)))
    assert np.array_equal(arrays["fc_1.weight"], weights.arrays["fc_1.weight"][:, [2, 0]])
    assert np.array_equal(arrays["fc_1.bias"], weights.arrays["fc_1.bias"][[2, 0]])
    assert np.array_equal(arrays["conv1._conv.weight"], weights.arrays["conv1._conv.weight"])


def test_weights_without_a_bundle_are_judged_by_class_count(finished: Path) -> None:
    weights = read_weights(finished / "weights.pdparams")
    assert head_rows(weights, None, ("one", "two", "three")) == (0, 1, 2)
    assert head_rows(weights, None, ("one", "two")) is None


def test_the_bundle_of_the_weights_is_found_by_its_hash(finished: Path, tmp_path: Path) -> None:
    for path, name in ((finished / "weights.pdparams", "shapes-run"), (EMBEDDED, "GhostNet_x0_5_cifar10")):
        bundle = find_bundle(path, read_weights(path))
        assert bundle is not None
        assert bundle.name == name
    assert find_bundle(finished / "last.pdparams", replace(read_weights(EMBEDDED), sha256="0" * 64)) is None


def test_random_weights_depend_on_the_seed_alone() -> None:
    one, again, other = (official_arrays(initial_network(recipe(seed=seed), 3, None)) for seed in (1, 1, 2))
    assert all(np.array_equal(one[key], again[key]) for key in one)
    assert not np.array_equal(one["conv1._conv.weight"], other["conv1._conv.weight"])


def test_a_new_head_depends_on_the_seed_alone(finished: Path) -> None:
    weights = read_weights(finished / "weights.pdparams")
    heads = [official_arrays(initial_network(recipe(seed=seed), 5, weights)) for seed in (1, 1, 2)]
    assert np.array_equal(heads[0]["fc_1.weight"], heads[1]["fc_1.weight"])
    assert not np.array_equal(heads[0]["fc_1.weight"], heads[2]["fc_1.weight"])


def test_the_width_is_the_one_asked_for_or_that_of_the_weights(finished: Path) -> None:
    weights = finished / "weights.pdparams"
    assert choose_network(None, None, None) == ("ghostnet_paddle", 0.5)
    assert choose_network(None, 1.0, None) == ("ghostnet_paddle", 1.0)
    assert choose_network(None, None, weights) == ("ghostnet_paddle", 0.1)
    assert choose_network("GhostNet_x1_3", None, None) == ("ghostnet_paddle", 1.3)
    assert choose_network("repghostnet_058.in1k", None, None) == ("repghostnet", 0.58)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--init={}/weights.pdparams", "--width=0.5"), "of width 0.1, not 0.5 as was asked for"),
        (("--init={}/none.pdparams",), "There is no weight file"),
        (("--init={}/metrics.csv",), "not a readable .pdparams file"),
    ],
)
def test_weights_that_cannot_be_started_from_are_one_clear_error(
    finished: Path, pictures: Path, tmp_path: Path, options: tuple[str, ...], expected: str
) -> None:
    given = [option.format(finished) for option in options]
    assert expected in train("--data", pictures, "--out", tmp_path / "run", *given).error()

from __future__ import annotations

import numpy as np
import pytest
import torch

from exporters.training.augmentation import mixup_or_cutmix, one_hot
from tests.training.runs import recipe

LABELS = torch.tensor([0, 1, 2, -1])
X = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16).clone()  # each image is its own number
TARGETS = one_hot(LABELS, 3)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_nothing_is_mixed_unless_asked_for() -> None:
    x, targets = mixup_or_cutmix(rng(), X, TARGETS, recipe())
    assert x is X
    assert targets is TARGETS


@pytest.mark.parametrize("seed", range(8))
def test_mixup_blends_images_and_targets_by_the_same_share(seed: int) -> None:
    x, targets = mixup_or_cutmix(rng(seed), X, TARGETS, recipe(mixup=0.8))
    share = float(x[3].mean() / 3)  # image 3 with image 0
    torch.testing.assert_close(x, X * share + X.flip(0) * (1 - share))
    torch.testing.assert_close(targets, TARGETS * share + TARGETS.flip(0) * (1 - share))
    assert 0 <= share <= 1


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_weighs_targets_by_the_pasted_area(seed: int) -> None:
    x, targets = mixup_or_cutmix(rng(seed), X, TARGETS, recipe(cutmix=1.0))
    pasted = x[1, 0] == 2
    kept = 1 - float(pasted.float().mean())
    rows, columns = pasted.any(1), pasted.any(0)
    assert int(pasted.sum()) == int(rows.sum()) * int(columns.sum())
    assert bool(torch.isin(x[1], torch.tensor([1.0, 2.0])).all())
    torch.testing.assert_close(targets, TARGETS * kept + TARGETS.flip(0) * (1 - kept))


def test_mixing_with_an_unlabelled_image_keeps_part_of_the_label() -> None:
    _, targets = mixup_or_cutmix(rng(), X, TARGETS, recipe(mixup=0.8))
    share = float(targets[1, 1])
    assert targets.sum(1).tolist() == pytest.approx([share, 1, 1, 1 - share])


def test_mixup_and_cutmix_alternate_at_random() -> None:
    mixed = [mixup_or_cutmix(rng(seed), X, TARGETS, recipe(mixup=1.0, cutmix=1.0))[0][1] for seed in range(20)]
    cut = [bool(torch.isin(image, torch.tensor([1.0, 2.0])).all()) for image in mixed]
    assert any(cut)
    assert not all(cut)


@pytest.mark.parametrize("choice", ["mixup", "cutmix"])
def test_mixing_is_deterministic_and_keeps_its_input(choice: str) -> None:
    before = X.clone()
    one, _ = mixup_or_cutmix(rng(5), X, TARGETS, recipe(**{choice: 1.0}))
    two, _ = mixup_or_cutmix(rng(5), X, TARGETS, recipe(**{choice: 1.0}))
    assert torch.equal(one, two)
    assert torch.equal(X, before)

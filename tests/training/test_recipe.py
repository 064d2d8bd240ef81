from __future__ import annotations

from typing import Any

import pytest

from exporters.training.recipe import Recipe
from ghostzoo.errors import OptionError


def test_the_defaults_are_the_published_recipe() -> None:
    recipe = Recipe()
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer, recipe.momentum) == (360, 512, "sgd", 0.9)
    assert (recipe.weight_decay, recipe.label_smoothing, recipe.dropout) == (4e-5, 0.1, 0.2)
    assert (recipe.image_size, recipe.resize_short, recipe.crop_scale, recipe.flip) == (224, 256, 0.08, True)
    assert recipe.peak_learning_rate == 0.8
    assert (recipe.mixup, recipe.cutmix, recipe.ema, recipe.rand_augment) == (0, 0, 0, None)


def test_learning_rate_warms_up_then_follows_half_a_cosine() -> None:
    recipe = Recipe()
    assert recipe.learning_rate_at(0) == 0
    assert recipe.learning_rate_at(2.5) == pytest.approx(0.4)
    assert recipe.learning_rate_at(5) == pytest.approx(0.8)
    assert recipe.learning_rate_at((360 + 5) / 2) == pytest.approx(0.4)
    assert recipe.learning_rate_at(360) == pytest.approx(0)
    rates = [recipe.learning_rate_at(epoch) for epoch in range(361)]
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_the_learning_rate_follows_the_batch_size() -> None:
    assert Recipe(batch_size=64).peak_learning_rate == pytest.approx(0.1)
    assert Recipe(batch_size=64, learning_rate=0.3).peak_learning_rate == 0.3


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"learning_rate": float("nan")}, "learning-rate must be from 0 to 100, not nan"),
        ({"epochs": 0}, "epochs must be from 1"),
        ({"batch_size": 1}, "batch-size must be from 2"),
        ({"image_size": 16}, "image-size must be from 32"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"resize_short": 200}, r"resize-short \(200\) must not be smaller"),
        ({"epochs": 3}, r"warmup-epochs \(5\) must be fewer than epochs \(3\)"),
        ({"interpolation": "cubic"}, "interpolation must be one of linear, random"),
        ({"optimizer": "adam"}, "optimizer must be one of sgd, adamw"),
        ({"grow": ((16, 3),)}, "grow 16:3 needs a size from 32"),
        ({"grow": ((64, 200), (96, 160))}, "take all 360 epochs"),
        ({"rand_augment": (0, 9.0)}, "1 to 8 operations"),
        ({"rand_augment": (2, 11.0)}, "magnitude from 0 to 10"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs momentum"),
    ],
)
def test_invalid_choices_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Recipe(**choices)

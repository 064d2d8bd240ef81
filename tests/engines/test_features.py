"""Explanations on every engine: exact where it returns the tensor before the pooling, else refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines.base import Engine, EngineOptions
from ghostzoo.errors import EngineUnavailableError
from tests.fixtures.pictures import picture as make_picture

_TOLERANCE = 1e-5


def test_a_map_and_its_constant_are_the_logit(
    engine_type: type[Engine], engine_bundle: Bundle, options: Callable[..., EngineOptions]
) -> None:
    picture = make_picture(90, 70)
    with ghostzoo.load(engine_bundle.path, engine=engine_type.name, threads=options().threads) as classifier:
        if not engine_type.gives_features:
            with pytest.raises(EngineUnavailableError, match="another engine, such as"):
                classifier.explain(picture)
            return
        logits = classifier.logits(picture)[0]
        scale = np.abs(logits).max()
        for index in range(len(logits)):
            found = classifier.explain(picture, index)
            assert abs(found.map.sum() + found.constant - logits[index]) < _TOLERANCE * scale
        found = classifier.explain(picture, 2, against=5)
        assert abs(found.map.sum() + found.constant - (logits[2] - logits[5])) < _TOLERANCE * scale
        assert found.engine == engine_type.name
        assert classifier.explain(picture).index == logits.argmax()
        np.testing.assert_array_equal(classifier.logits(picture)[0], logits)


def test_features_of_a_batch_are_those_of_its_images(
    engine_type: type[Engine], engine_bundle: Bundle, options: Callable[..., EngineOptions]
) -> None:
    if not engine_type.gives_features:
        pytest.skip(f"{engine_type.name} does not return the tensor before the pooling")
    head, batch = engine_bundle.head(), engine_bundle.golden().pixel_values
    with engine_type.load_features(engine_bundle, head, options()) as engine:
        together = engine.run(batch, "features")
        single = [engine.run(image[np.newaxis], "features")[0] for image in batch]
    assert together.shape == (len(batch), *head.shape)
    np.testing.assert_allclose(together, single, atol=1e-5 * np.abs(together).max())

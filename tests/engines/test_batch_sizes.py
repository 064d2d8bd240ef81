"""ONNX Runtime runs single images and batches in sessions of their own, with the same answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.onnxruntime import OnnxRuntimeEngine
from ghostzoo.errors import EngineError


def test_every_size_gets_the_same_answers(tiny_bundle: Bundle) -> None:
    images = np.random.default_rng(0).normal(size=(5, 3, 64, 64)).astype(np.float32)
    with OnnxRuntimeEngine.load(tiny_bundle, EngineOptions(threads=1)) as engine:
        single = np.concatenate([engine.run(image[None]) for image in images])
        with ThreadPoolExecutor(4) as pool:  # the session for batches is opened once, whoever comes first
            batches = list(pool.map(engine.run, [images] * 8))
        for size in (2, 3, 4, 8, 9, 10):  # those beyond 4 run in pieces, of which the last one may be smaller
            chosen = np.arange(size) % len(images)
            np.testing.assert_allclose(
                engine.run(images[chosen]), single[chosen], rtol=0, atol=1e-5 * abs(single).max()
            )
    for batch in batches:
        np.testing.assert_allclose(batch, single, rtol=0, atol=1e-5 * abs(single).max())
    with pytest.raises(EngineError, match="closed"):
        engine.run(images)


@pytest.mark.parametrize("size", [4, 6, 8])
def test_a_batch_of_fixed_size_gets_the_same_answers_in_pieces(tiny_bundle: Bundle, size: int) -> None:
    images = np.random.default_rng(0).normal(size=(size, 3, 64, 64)).astype(np.float32)
    with (
        OnnxRuntimeEngine.load(tiny_bundle, EngineOptions(threads=1)) as single,
        OnnxRuntimeEngine.load(tiny_bundle, EngineOptions(threads=1, batch_size=size)) as engine,
    ):
        expected = np.concatenate([single.run(image[None]) for image in images])
        result = engine.run(images)
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * abs(expected).max())
        np.testing.assert_allclose(engine.run(images[:3]), expected[:3], rtol=0, atol=1e-5 * abs(expected).max())

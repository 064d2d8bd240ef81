"""A multi-label model on every engine, in the engine's own format too."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import ghostzoo
from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.engines.base import Engine
from ghostzoo.images.transform import preprocess
from ghostzoo.network.reference import reference_forward
from ghostzoo.weights.params import read_weights

pytestmark = pytest.mark.slow


def test_every_class_has_a_score_of_its_own(
    engine_type: type[Engine], multi_label_bundle: Bundle, tmp_path: Path
) -> None:
    folder = multi_label_bundle.path
    if engine_type.name in CONVERTED_FILES:
        from exporters.edge_formats import export_edge

        folder = export_edge(folder, engine_type.name, out=tmp_path / "tiny").bundle.path
    threads = None if engine_type.default_device.startswith("cuda") else 1
    pictures = [
        cv2.resize(grid, (90, 70)) for grid in np.random.default_rng(0).integers(0, 256, (4, 4, 5, 3), np.uint8)
    ]
    weights = read_weights(multi_label_bundle.path.with_suffix(".pdparams"))
    with ghostzoo.load(folder, engine=engine_type.name, threads=threads) as classifier:
        pixels = np.stack([preprocess(picture, multi_label_bundle.preprocessing) for picture in pictures])
        logits, _ = reference_forward(weights.arrays, weights.architecture, pixels)
        expected = 1 / (1 + np.exp(-logits))
        np.testing.assert_allclose(classifier.probabilities(pictures), expected, atol=1e-4)
        for scores, found in zip(expected, classifier.predict(pictures), strict=True):
            assert {each.index for each in found} == set(np.flatnonzero(scores >= 0.5).tolist())
            assert [each.score for each in found] == pytest.approx(sorted(scores[scores >= 0.5])[::-1], abs=1e-4)

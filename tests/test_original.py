"""The main promise: from the original's weight file and a photograph to the original's answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ghostzoo
from ghostzoo.parity import compare_logits

pytestmark = pytest.mark.slow

WIDTHS = ["GhostNet_x0_5", "GhostNet_x1_0", "GhostNet_x1_3"]
TOLERANCE = 2e-5


@pytest.mark.parametrize("model", WIDTHS)
def test_logits_of_all_photographs_are_the_originals(model: str, shared: Path, tmp_path: Path) -> None:
    bundle = ghostzoo.convert(shared / "reference" / f"{model}_pretrained.pdparams", tmp_path / model, model=model)
    with np.load(shared / "reference" / f"{model}_logits.npz") as reference:
        names, expected = reference["files"].tolist(), reference["logits"]
    found = {path.name: path for path in (shared / "images").rglob("*") if path.is_file()}
    photos = [found[Path(name).name] for name in names]
    assert len(photos) == 57
    with ghostzoo.load(bundle.path, engine="onnxruntime") as clf:
        logits = clf.logits(photos)
        first = clf(photos[0])
    agreement = compare_logits(expected, logits, TOLERANCE)
    assert agreement.within(TOLERANCE), agreement
    best = np.argsort(-expected[0])[:5]
    assert [prediction.index for prediction in first] == best.tolist()
    labels = ghostzoo.load(bundle.path).bundle.labels
    assert [prediction.label for prediction in first] == [labels[index].label for index in best]

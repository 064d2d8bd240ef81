"""What the page is taught: the same head as the package fits, in a bundle that the package opens."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ghostzoo
from exporters.web.site import PAGE
from ghostzoo.bundle.folder import Bundle
from ghostzoo.parity import EXACT_TOLERANCE


@pytest.mark.parametrize("counts", [(4, 9, 2), (30, 30)])
def test_what_the_page_is_taught_is_a_bundle(
    node: str, tiny_bundle: Bundle, tmp_path: Path, counts: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(len(counts))
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = rng.normal(size=(len(counts), 1280))
    features = np.maximum(centres[labels] + 2 * rng.normal(size=(len(labels), 1280)), 0).astype(np.float32)
    names = [f"Klasse {index} «ä»" for index in range(len(counts))]
    case = {"features": features.tolist(), "labels": labels.tolist(), "names": names}
    (tmp_path / "case.json").write_text(json.dumps(case))
    script = Path(__file__).with_name("teach.mjs")
    command = [node, script, PAGE, tiny_bundle.path, tmp_path / "case.json", tmp_path / "taught.zip"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    weights = 1 / np.array(counts)[labels] / len(counts)
    exact, targets = features.astype(np.float64), np.eye(len(counts))[labels]
    centred, wanted = exact - weights @ exact, targets - weights @ targets
    gram = centred.T @ (weights[:, None] * centred)
    ridge = found["strength"] * np.trace(gram) * np.eye(1280)
    solution = found["factor"] * np.linalg.solve(gram + ridge, centred.T @ (weights[:, None] * wanted)).T
    weight = np.reshape(found["weight"], solution.shape)
    np.testing.assert_allclose(weight, solution, atol=1e-4 * np.abs(solution).max())
    bias = found["factor"] * (weights @ targets) - solution @ (weights @ exact)
    np.testing.assert_allclose(found["bias"], bias, atol=1e-4 * np.abs(bias).max())
    assert found["right"] > 0.7 * len(labels)

    with zipfile.ZipFile(tmp_path / "taught.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    bundle = Bundle.open(tmp_path / "taught")
    assert [label.label for label in bundle.labels] == names
    assert bundle.manifest.weights["fitted_on"] == {"model": "tiny", "graph_sha256": tiny_bundle.model_hash()}
    with ghostzoo.load(bundle.path, engine="onnxruntime", threads=1) as classifier:
        assert classifier.self_check().within(EXACT_TOLERANCE)

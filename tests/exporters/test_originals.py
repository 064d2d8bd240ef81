"""The original's own logits, which come out of the bundles that its weights are exported to."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import ghostzoo
from ghostzoo.parity import compare_logits
from tests.exporters.conftest import run

pytestmark = pytest.mark.slow


def test_the_originals_logits_come_out(shared: Path, tmp_path: Path) -> None:
    """The widths of the reference weights, on all 57 photographs, from bundles that were exported with some of them."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("GhostNet_x0_5", "GhostNet_x1_0", "GhostNet_x1_3"):
        shutil.copy(shared / "reference" / f"{name}_pretrained.pdparams", folder)
    (folder / "GhostNet_x1_3_ssld_pretrained.pdparams").write_bytes(
        (folder / "GhostNet_x1_3_pretrained.pdparams").read_bytes()
    )
    out = tmp_path / "bundles"
    result = run("export", "--all", "--weights-dir", folder, "--images", shared / "images" / "photos", "--out", out)
    assert result.returncode == 0, result.stderr
    found = {path.name: path for path in (shared / "images").rglob("*") if path.is_file()}
    for name in ("GhostNet_x0_5", "GhostNet_x1_0", "GhostNet_x1_3"):
        with np.load(shared / "reference" / f"{name}_logits.npz") as reference:
            photos = [found[Path(file).name] for file in reference["files"].tolist()]
            expected = reference["logits"]
        with ghostzoo.load(out / name) as clf:
            assert compare_logits(expected, clf.logits(photos), 2e-5).within(2e-5)
        converted = ghostzoo.convert(folder / f"{name}_pretrained.pdparams", tmp_path / name, model=name)
        assert converted.model() == ghostzoo.Bundle.open(out / name).model()

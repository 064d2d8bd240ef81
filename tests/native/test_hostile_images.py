"""Hostile and damaged images: the library classifies each of them or says why not, and never ends.

The same with sanitizers: ``GHOSTZOO_NATIVE_BUILD`` names the folder of a build with ``-DGHOSTZOO_SANITIZE=ON``, and
``GHOSTZOO_FUZZ`` how many damaged images of each format are tried.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.fuzz import SEEDS, mutant
from tests.fixtures.hostile_images import HOSTILE

ROOT = Path(__file__).parents[2]
PROGRAM = Path(os.environ.get("GHOSTZOO_NATIVE_BUILD", ROOT / "native/build")) / "ghostzoo-classify"
BUNDLED = ROOT / "ghostzoo/models/GhostNet_x0_5_cifar10"
COUNT = int(os.environ.get("GHOSTZOO_FUZZ", "90"))  # of each of twelve formats

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not built; 'make native' builds it"),
]


def classify(folder: Path) -> list[str]:
    """Classify all files of a folder; return the error of each, empty for those that are read."""
    files = sorted(folder.iterdir())
    words = [PROGRAM, "--threads", "1", "--json", BUNDLED, *files]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in (0, 1), done.stderr[-2000:]
    assert "Sanitizer" not in done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["image"] for answer in answers] == [str(file) for file in files]
    assert all((answer["error"] is None) == bool(answer["predictions"]) for answer in answers)
    return [answer["error"] or "" for answer in answers]


@pytest.mark.extra
@pytest.mark.parametrize("name", SEEDS)
def test_damaged_images_are_read_or_refused(name: str, tmp_path: Path) -> None:
    for number in range(COUNT):
        (tmp_path / str(number)).write_bytes(mutant(name, number))
    errors = classify(tmp_path)
    assert all(error == "" or error.startswith("The image ") for error in errors)
    if name in ("jpeg", "png", "pnm"):
        assert 0 < errors.count("") < COUNT


def test_hostile_images_are_read_or_refused(tmp_path: Path) -> None:
    for name, (make, _) in HOSTILE.items():
        (tmp_path / name).write_bytes(make())
    assert all(error == "" or error.startswith("The image ") for error in classify(tmp_path))

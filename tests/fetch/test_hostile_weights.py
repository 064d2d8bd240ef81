"""Hostile weights from a server: ``pull`` says so in one line, keeps nothing of them, and takes little memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.limited import run_limited
from tests.fixtures.ranged import RangedFile
from tests.fixtures.server import serve
from tests.weights.test_costs import HOSTILE

pytestmark = pytest.mark.slow

NAME = "GhostNet_x0_5"
FILE = f"/{NAME}_pretrained.pdparams"
COMMAND = "import sys; from ghostzoo.cli import main; sys.argv[0] = 'ghostzoo'; main()"


@pytest.mark.parametrize("name", ["a dict made of a dict", "dicts of one list, with padding", "arrays of one buffer"])
def test_hostile_weights_are_refused_and_not_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("GHOSTZOO_CACHE", str(cache))
    with serve({FILE: RangedFile(HOSTILE[name][0])}) as address:
        monkeypatch.setenv("GHOSTZOO_WEIGHTS_URL", address)
        ended = run_limited(COMMAND, "pull", NAME, memory_mb=1024, seconds=60)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith(f"Error: {address}{FILE} gives no weights of {NAME}, and nothing was kept: ")
    assert HOSTILE[name][1] in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_honest_weights_are_pulled_after_hostile_ones(
    weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "cache"))
    file = RangedFile(HOSTILE["arrays of one buffer"][0])
    with serve({FILE: file}) as address:
        monkeypatch.setenv("GHOSTZOO_WEIGHTS_URL", address)
        assert run_limited(COMMAND, "pull", NAME).returncode == 1
        file.body = weights
        assert run_limited(COMMAND, "pull", NAME).returncode == 0


def test_convert_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "weights.pdparams"
    path.write_bytes(HOSTILE["a dict made of a dict"][0])
    before = sorted(tmp_path.iterdir())
    ended = run_limited(
        *(COMMAND, "convert", "--name", "mine", "--weights", path, "--out", tmp_path / "out"), memory_mb=1024
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Error: {path} is refused as weights: ")
    assert ended.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before

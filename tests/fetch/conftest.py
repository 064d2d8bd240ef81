from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghostzoo.fetch import retry
from ghostzoo.network.architecture import Architecture
from tests.fixtures.networks import random_arrays, write_weights

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Weights of the smallest model of the catalog, with random values, as a file in the official format."""
    path = tmp_path_factory.mktemp("weights") / "any.pdparams"
    return write_weights(path, random_arrays(Architecture.of(0.5, 1000))).read_bytes()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command line in a process of its own, with a cache folder of the test's own."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ghostzoo", *map(str, arguments)]
        surroundings = {**os.environ, "GHOSTZOO_CACHE": str(tmp_path / "cache"), **environment}
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=surroundings)

    return run


def json_lines(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]

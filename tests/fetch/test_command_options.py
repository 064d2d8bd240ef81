"""Every command that takes a model takes the options that say where models come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fetch.conftest import Run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "command",
    [
        ("doctor", "--model"),
        ("bench",),
        ("serve", "--port", "0", "--no-grpc", "--model"),
        ("build-engine", "--model"),
        ("predict", "x.jpg", "--model"),
    ],
    ids=lambda command: command[0],
)
def test_a_model_is_looked_for_where_the_options_say(command: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    if command[0] == "serve":
        pytest.importorskip("hypercorn", reason="hypercorn, which the server needs, is not installed here")
    kept = tmp_path / "elsewhere"
    result = run(*command, "GhostNet_x1_0", "--cache-dir", kept, "--offline", HF_HUB_OFFLINE="0")
    assert result.returncode == 1
    assert f"nothing usable in {kept}" in result.stderr
    assert "Run 'ghostzoo pull GhostNet_x1_0' while online" in result.stderr
    refused = run(*command, "GhostNet_x1_0", "--endpoint", "nowhere")
    assert refused.returncode == 1
    assert "must begin with http:// or https://" in refused.stderr

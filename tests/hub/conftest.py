from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants as hub_constants

from ghostzoo.bundle.folder import Bundle
from hub.publish import Target
from tests.fixtures.hub import OWNER_TOKEN, LoopbackHub, loopback_hub

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loopback Hub has no xet; the client reads the variable when it is imported."""
    if "GHOSTZOO_TEST_HUB_ENDPOINT" in os.environ:  # another Hub may have it: HF_HUB_DISABLE_XET says so
        return
    monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with loopback_hub() as running:
        yield running


@pytest.fixture
def target(hub: LoopbackHub, tmp_path: Path) -> Target:
    return Target("zoo", hub.endpoint, OWNER_TOKEN, lock_file=tmp_path / "hub.lock.json")


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy that a test may change."""
    shutil.copytree(tiny_bundle.path, tmp_path / "tiny")
    return Bundle.open(tmp_path / "tiny")


@pytest.fixture
def environment(hub: LoopbackHub, tmp_path: Path) -> dict[str, str]:
    """Surroundings of a process of its own: this Hub, its owner's token, empty caches."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GHOSTZOO_"))}
    return own | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": OWNER_TOKEN,
        "HF_HOME": str(tmp_path / "hf-home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "GHOSTZOO_CACHE": str(tmp_path / "cache"),
        "GHOSTZOO_ENGINE": "onnxruntime",
        "PYTHONPATH": str(ROOT),
    }

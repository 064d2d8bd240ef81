from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants as hub_constants

from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import Bundle
from ghostzoo.bundle.hub_configs import PREPROCESSOR_FILE, preprocessing_to_json
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
def bundle(request: pytest.FixtureRequest, tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy that a test may change; with a parameter, one that resizes images with this interpolation."""
    shutil.copytree(tiny_bundle.path, tmp_path / "tiny")
    copy = Bundle.open(tmp_path / "tiny")
    steps = replace(copy.preprocessing, interpolation=getattr(request, "param", "bilinear"))
    if steps == copy.preprocessing:
        return copy
    contents = {name: copy.read(name) for name in copy.manifest.files}
    return write_bundle(
        copy.path,
        name=copy.name,
        contents=contents | {PREPROCESSOR_FILE: preprocessing_to_json(steps)},
        weights=copy.manifest.weights,
        created_by={},
        validation={},
        overwrite=True,
    )


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

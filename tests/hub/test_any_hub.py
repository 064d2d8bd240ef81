"""Publish, load and publish again, on the Hub that the environment names, or else on the one of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi

import ghostzoo
from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import Bundle
from ghostzoo.fetch.lockfile import read_lock
from hub.card import CardFacts
from hub.publish import Target, publish
from tests.fixtures.hub import OWNER_TOKEN, loopback_hub

pytestmark = pytest.mark.slow


@pytest.fixture
def any_hub(tmp_path: Path) -> Iterator[Target]:
    lock_file = tmp_path / "hub.lock.json"
    endpoint = os.environ.get("GHOSTZOO_TEST_HUB_ENDPOINT")
    if endpoint:
        namespace, token = (os.environ[f"GHOSTZOO_TEST_HUB_{name}"] for name in ("NAMESPACE", "TOKEN"))
        yield Target(namespace, endpoint, token, private=True, tag="v1.0", lock_file=lock_file)
    else:
        with loopback_hub() as hub:
            yield Target("zoo", hub.endpoint, OWNER_TOKEN, private=True, tag="v1.0", lock_file=lock_file)


def test_round_trip(any_hub: Target, tiny_bundle: Bundle, tmp_path: Path) -> None:
    name = f"ghostzoo-test-{os.getpid()}"  # a repository of this run's own, which is deleted at its end
    contents = {file: tiny_bundle.read(file) for file in tiny_bundle.manifest.files}
    weights = tiny_bundle.manifest.weights
    local = write_bundle(tmp_path / name, name=name, contents=contents, weights=weights, created_by={}, validation={})
    repo = f"{any_hub.namespace}/{name}"
    api = HfApi(any_hub.endpoint, any_hub.token)
    try:
        first = publish(local.path, any_hub, CardFacts())
        again = publish(local.path, any_hub, CardFacts())
        assert (first.created, first.uploaded, again.created, again.uploaded) == (True, True, False, False)
        assert first.pin == again.pin == read_lock(any_hub.lock_file)[name]
        assert [tag.target_commit for tag in api.list_repo_refs(repo).tags] == [first.pin.commit]
        image = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
        options = {"endpoint": any_hub.endpoint, "token": any_hub.token, "cache_dir": tmp_path / "cache"}
        with ghostzoo.load(f"{repo}@v1.0", **options) as published, ghostzoo.load(local.path) as own:
            assert published.bundle.origin == "hub"
            assert published.logits([image]).tobytes() == own.logits([image]).tobytes()
    finally:
        api.delete_repo(repo, missing_ok=True)

"""timm's models by name: from safetensors on a Hub to a bundle, or a clear refusal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ghostzoo
from ghostzoo.catalog import CatalogModel, find_record, get_model
from ghostzoo.converter import convert
from ghostzoo.errors import FetchError, OptionError, WeightsError
from ghostzoo.fetch.official import find_published_sha256
from ghostzoo.fetch.options import FetchOptions
from ghostzoo.fetch.resolver import fetch
from ghostzoo.fetch.store import Store
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.network.architecture import Architecture
from hub.card import CardFacts, write_full_card
from tests.fixtures.checkpoints import safetensors
from tests.fixtures.hub import LoopbackHub, loopback_hub
from tests.fixtures.networks import random_arrays

pytestmark = pytest.mark.slow

NAME, REPO = "repghostnet_050.in1k", "timm/repghostnet_050.in1k"


@pytest.fixture(scope="module")
def weights() -> bytes:
    return safetensors(random_arrays(Architecture.named("repghostnet_050")))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.delenv("GHOSTZOO_WEIGHTS_URL")
    with loopback_hub() as running:
        yield running


@pytest.fixture
def options(hub: LoopbackHub, tmp_path: Path) -> FetchOptions:
    return FetchOptions(cache_dir=tmp_path / "models", endpoint=hub.endpoint, token=False)


def test_a_name_becomes_a_verified_bundle(hub: LoopbackHub, options: FetchOptions, weights: bytes) -> None:
    commit = hub.add(REPO, {"model.safetensors": weights, "config.json": b"{}"})
    told: list[tuple[str, int, int | None]] = []
    bundle = fetch(NAME, replace(options, progress=lambda *each: told.append(each)))
    assert (bundle.name, bundle.origin, bundle.num_classes) == (NAME, "official weights", 1000)
    assert bundle.preprocessing == Preprocessing.timm()
    assert bundle.manifest.weights["sha256"] == hashlib.sha256(weights).hexdigest()
    url = bundle.manifest.weights["source_url"]
    assert url == f"https://huggingface.co/{REPO}/resolve/{commit}/model.safetensors"
    assert find_record(NAME, url) is get_model(NAME)
    card = write_full_card(bundle, f"zoo/{NAME}", CardFacts(known_weights=[bundle.manifest.weights["sha256"]]))
    assert "license: mit" in card
    assert "[published by timm](https://github.com/huggingface/" in card
    assert "chen2022repghost" in card
    assert told[-1] == (NAME, len(weights), len(weights))
    assert find_published_sha256(get_model(NAME), Store(options.models_cache)) == bundle.manifest.weights["sha256"]
    hub.stop()
    with ghostzoo.load(f"hf://{REPO}", cache_dir=options.cache_dir, endpoint=hub.endpoint) as classifier:
        assert classifier.bundle.path == bundle.path
        assert len(classifier(np.zeros((300, 400, 3), np.uint8))) == 5


def test_other_bytes_than_the_hub_states_are_refused(hub: LoopbackHub, options: FetchOptions, weights: bytes) -> None:
    hub.add(REPO, {"model.safetensors": weights})
    wrong = weights[:-1] + bytes([weights[-1] ^ 1])
    hub.inject("GET", "/cdn/", lambda reply: replace(reply, body=wrong))
    with pytest.raises(FetchError, match=r"delivers model\.safetensors with SHA-256 [0-9a-f]{64}, but states"):
        fetch(NAME, options)
    assert not list(options.models_cache.rglob("*.safetensors"))


def test_a_moved_branch_is_refused_until_it_is_accepted(
    hub: LoopbackHub, options: FetchOptions, weights: bytes
) -> None:
    hub.add(REPO, {"model.safetensors": weights})
    first = fetch(NAME, options)
    other = safetensors(random_arrays(Architecture.named("repghostnet_050"), seed=1))
    hub.add(REPO, {"model.safetensors": other})
    with pytest.raises(WeightsError, match=f"ghostzoo pull {NAME} --accept"):
        fetch(NAME, options, refresh=True)
    sha256 = hashlib.sha256(other).hexdigest()
    assert fetch(NAME, options, accept=sha256).manifest.weights["sha256"] == sha256 != first.manifest.weights["sha256"]


def test_a_pinned_commit_is_what_is_asked_for(
    hub: LoopbackHub, options: FetchOptions, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add(REPO, {"model.safetensors": weights})
    hub.add(REPO, {"model.safetensors": b"newer"})
    pinned: CatalogModel = replace(get_model(NAME), commit=commit)
    monkeypatch.setitem(ghostzoo.catalog._BY_NAME, NAME, pinned)
    assert fetch(NAME, options).manifest.weights["source_url"] == pinned.weights_url
    assert hub.seen("GET", f"/revision/{commit}")


def test_weights_of_another_network_are_refused(hub: LoopbackHub, options: FetchOptions) -> None:
    hub.add(REPO, {"model.safetensors": safetensors(random_arrays(Architecture.named("ghostnet_050")))})
    with pytest.raises(WeightsError, match=r"gives no weights of repghostnet_050\.in1k, and nothing was kept"):
        fetch(NAME, options)


def test_a_mirror_has_the_file_by_the_model_s_name(
    options: FetchOptions, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{NAME}.safetensors").write_bytes(weights)
    monkeypatch.setenv("GHOSTZOO_WEIGHTS_URL", str(tmp_path))
    fetched = fetch(NAME, options)
    converted = convert(tmp_path / f"{NAME}.safetensors", tmp_path / "converted", model=NAME)
    for file in ("onnx/model.onnx", "preprocessor_config.json", "config.json"):
        assert fetched.read(file) == converted.read(file)
    with pytest.raises(WeightsError, match="not GhostNetV2 of width 1 as was asked for"):
        convert(tmp_path / f"{NAME}.safetensors", tmp_path / "other", model="ghostnetv2_100.in1k")


def test_failures_say_what_was_tried(hub: LoopbackHub, options: FetchOptions) -> None:
    with pytest.raises(FetchError, match=f"Official weights: hf://{REPO}@main .* does not exist or is private"):
        fetch(NAME, options)
    with pytest.raises(OptionError, match=f"{REPO} holds weights and no bundle; load {NAME}, without a revision"):
        fetch(f"{REPO}@v1", options)

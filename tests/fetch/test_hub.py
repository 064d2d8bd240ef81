"""Repositories of the Hub: the real client against a Hub on this machine that fails on purpose."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.fetch import huggingface_client as hub_client
from ghostzoo.fetch import lockfile as hub_lock
from ghostzoo.fetch.lockfile import Pin, write_lock
from ghostzoo.fetch.options import FetchOptions
from ghostzoo.fetch.resolver import fetch
from tests.fetch.conftest import Run, json_lines
from tests.fixtures.hub import OWNER_TOKEN, STRANGER_TOKEN, LoopbackHub, loopback_hub
from tests.fixtures.hub_faults import (
    Reply,
    corrupted,
    dropped,
    forbidden,
    gated,
    json_reply,
    no_entry,
    no_repository,
    no_revision,
    slow,
    too_many_requests,
    truncated,
    unauthorised,
    unavailable,
)
from tests.fixtures.server import certified, serve

REPO = "zoo/tiny"
LARGE = r"/cdn/"
"""The path of a large file, such as the graph, where its content is."""


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with loopback_hub() as running:
        yield running


@pytest.fixture
def commit(hub: LoopbackHub, tiny_bundle: Bundle) -> str:
    return hub.add(REPO, tiny_bundle.path)


@pytest.fixture
def options(hub: LoopbackHub, tmp_path: Path) -> FetchOptions:
    return FetchOptions(cache_dir=tmp_path / "models", endpoint=hub.endpoint)


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock file of the test's own in place of the package's."""
    path = tmp_path / "hub.lock.json"
    write_lock({}, path)
    monkeypatch.setattr(hub_lock, "LOCK_FILE", path)
    return path


def files(bundle: Bundle) -> dict[str, bytes]:
    return {
        path.relative_to(bundle.path).as_posix(): path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()
    }


def changed(path: Path, name: str, data: bytes) -> dict[str, bytes]:
    """The files of a bundle with one of them replaced."""
    found = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    return {**found, name: data}


def test_a_repository_is_the_bundle_that_was_published(
    commit: str, options: FetchOptions, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    bundle = fetch(REPO, options)
    assert (bundle.origin, bundle.path.name) == ("hub", commit)
    assert files(bundle) == files(tiny_bundle)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 80, 3), np.uint8)
    with (
        ghostzoo.load(f"hf://{REPO}", cache_dir=options.cache_dir, endpoint=options.endpoint) as clf,
        ghostzoo.load(tiny_bundle.path) as local,
    ):
        assert clf.bundle.origin == "cache"
        assert clf.logits(pixels).tobytes() == local.logits(pixels).tobytes()


def test_a_branch_costs_one_request_a_commit_none(hub: LoopbackHub, commit: str, options: FetchOptions) -> None:
    fetch(REPO, options)
    hub.requests.clear()
    assert fetch(REPO, options).origin == "cache"
    assert len(hub.requests) == 1
    hub.stop()
    assert fetch(f"{REPO}@{commit}", options).origin == "cache"
    assert fetch(f"hf://{REPO}", FetchOptions(commit, options.cache_dir, endpoint=options.endpoint)).origin == "cache"


def test_a_branch_that_moved_is_followed_and_a_tag_is_not(
    hub: LoopbackHub, commit: str, options: FetchOptions, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    hub.repositories[REPO].tags["v1.0"] = commit
    assert fetch(REPO, options).path.name == commit
    moved = hub.add(REPO, {"notes.txt": b"not of the bundle"})
    assert fetch(REPO, options).path.name == moved
    assert fetch(f"{REPO}@v1.0", options).path.name == commit
    assert "notes.txt" not in files(fetch(REPO, options))


def test_offline_a_branch_is_what_it_was_and_says_so(
    hub: LoopbackHub, commit: str, options: FetchOptions, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(REPO, options)
    hub.stop()
    with caplog.at_level(logging.WARNING):
        assert fetch(REPO, options).path.name == commit
    assert f"{commit} is used" in caplog.text


def test_offline_makes_no_request(
    hub: LoopbackHub, commit: str, options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(REPO, options)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(REPO, options).origin == "cache"
    with pytest.raises(ghostzoo.FetchError, match="requests are off"):
        fetch("hf://zoo/other", options)
    assert hub.requests == []


def test_offline_finds_what_the_clients_own_cache_holds(
    hub: LoopbackHub, commit: str, options: FetchOptions, tiny_bundle: Bundle
) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(REPO, endpoint=hub.endpoint)
    hub.stop()
    bundle = fetch(REPO, FetchOptions(cache_dir=options.cache_dir, offline=True, endpoint=hub.endpoint))
    assert (bundle.origin, bundle.path.name) == ("hub", commit)
    assert files(bundle) == files(tiny_bundle)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (unauthorised(), "401.*token"),
        (forbidden(), "403.*token"),
        (gated(), "asks for permission.*hf auth login"),
        (no_repository(), "does not exist or is private"),
        (no_revision(), "no such revision"),
        (no_entry(), "not a ghostzoo model"),
        (too_many_requests(3600), "429.*asks to wait 3600 s"),
        (unavailable(), "503.*4 times in a row"),
        (dropped, "connection failed.*4 times in a row"),
        (Reply(500, b"<html>"), "500.*4 times in a row"),
        (json_reply({"id": REPO, "sha": "../../elsewhere"}), "does not say which commit it is"),
        (Reply(200, b"<html>Log in to the hotel's network</html>"), "connection failed|no commit|not say"),
    ],
)
def test_a_hub_that_refuses_is_one_sentence_and_heals(
    hub: LoopbackHub, commit: str, options: FetchOptions, fault: Reply, message: str
) -> None:
    hub.inject("*", ".", fault, times=None)
    with pytest.raises(ghostzoo.FetchError, match=message) as caught:
        fetch(f"hf://{REPO}", options)
    assert "\n" not in str(caught.value)
    assert f"hf://{REPO}@main at {hub.endpoint}" in str(caught.value)
    hub.heal()
    assert fetch(f"hf://{REPO}", options).path.name == commit


@pytest.mark.parametrize(
    ("method", "path", "fault"),
    [
        ("GET", "^/api/", too_many_requests(1)),
        ("GET", "^/api/", unavailable()),
        ("GET", "^/api/", dropped),
        ("HEAD", "config.json", unavailable()),
        ("GET", "config.json", unavailable()),
        ("GET", LARGE, unavailable()),
        ("GET", LARGE, too_many_requests(1)),
        ("GET", LARGE, truncated(1000)),
        ("GET", LARGE, dropped),
        ("*", ".", slow(0.2)),
    ],
)
def test_what_passes_is_got_over(
    hub: LoopbackHub, commit: str, options: FetchOptions, method: str, path: str, fault: Reply
) -> None:
    met = hub.inject(method, path, fault)
    assert fetch(REPO, options).origin == "hub"
    assert met.met == 1


def test_a_hub_that_always_takes_its_time_is_waited_for(hub: LoopbackHub, commit: str, options: FetchOptions) -> None:
    asked = [hub.inject(method, path, slow(0.5), times=None) for method, path in (("GET", "^/api/"), ("HEAD", "onnx/"))]
    assert fetch(REPO, options).path.name == commit
    assert all(fault.met for fault in asked)
    assert asked[0].met == 1
    assert hub_client._TIMEOUT == constants.DEFAULT_REQUEST_TIMEOUT == constants.DEFAULT_ETAG_TIMEOUT


@pytest.mark.parametrize(
    ("path", "fault"), [(LARGE, corrupted), ("golden|config.json", corrupted), ("ghostzoo.json", corrupted)]
)
def test_a_changed_byte_on_the_way_is_refused_and_not_kept(
    hub: LoopbackHub, commit: str, options: FetchOptions, path: str, fault: Reply
) -> None:
    hub.inject("GET", path, fault, times=None)
    with pytest.raises(ghostzoo.BundleError, match=f"hf://{REPO}.*is refused.*Nothing of it was kept"):
        fetch(REPO, options)
    assert not [path for path in options.models_cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    hub.heal()
    assert fetch(REPO, options).origin == "hub"


def test_a_body_that_never_comes_whole_is_given_up(
    hub: LoopbackHub, commit: str, options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_client, "_ATTEMPTS", 1)  # the client itself tries five times, and waits in between
    hub.inject("GET", "preprocessor_config.json", truncated(10), times=None)
    with pytest.raises(ghostzoo.FetchError):
        fetch(REPO, options)
    hub.heal()
    assert fetch(REPO, options).origin == "hub"


def test_a_repository_with_a_changed_byte_is_refused(
    hub: LoopbackHub, options: FetchOptions, tiny_bundle: Bundle
) -> None:
    graph = bytearray(tiny_bundle.model())
    graph[len(graph) // 2] ^= 1
    hub.add("zoo/changed", changed(tiny_bundle.path, "onnx/model.onnx", bytes(graph)))
    with pytest.raises(ghostzoo.BundleError, match=r"onnx/model\.onnx was changed"):
        fetch("zoo/changed", options)


@pytest.mark.parametrize("name", ["../escape", "/etc/escape", "a/../../escape", "..\\escape", "C:escape"])
def test_a_manifest_that_leads_outside_is_refused(
    hub: LoopbackHub, options: FetchOptions, tiny_bundle: Bundle, tmp_path: Path, name: str
) -> None:
    manifest = json.loads((tiny_bundle.path / "ghostzoo.json").read_bytes())
    manifest["files"][name] = {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}
    hub.add("zoo/escape", changed(tiny_bundle.path, "ghostzoo.json", json.dumps(manifest).encode()))
    with pytest.raises(ghostzoo.BundleError, match="not a path inside the bundle"):
        fetch("zoo/escape", options)
    assert not list(tmp_path.rglob("escape*"))


def test_a_file_larger_than_its_manifest_says_is_not_downloaded(
    hub: LoopbackHub, options: FetchOptions, tiny_bundle: Bundle
) -> None:
    hub.add("zoo/large", changed(tiny_bundle.path, "onnx/model.onnx", bytes(3_000_000)))
    with pytest.raises(ghostzoo.BundleError, match="has 3000000 bytes, more than"):
        fetch("zoo/large", options)
    hub.add("zoo/manifest", changed(tiny_bundle.path, "ghostzoo.json", bytes(5_000_000)))
    with pytest.raises(ghostzoo.BundleError, match="has 5000000 bytes, more than"):
        fetch("zoo/manifest", options)
    assert not hub.seen("GET", hashlib.sha256(bytes(3_000_000)).hexdigest())
    assert not hub.seen("GET", "resolve/.*ghostzoo.json$")[1:]


def test_tokens_open_private_repositories_and_are_shown_nowhere(
    hub: LoopbackHub, options: FetchOptions, tiny_bundle: Bundle
) -> None:
    hub.add("zoo/private", tiny_bundle.path, private=True)
    own = FetchOptions(cache_dir=options.cache_dir, endpoint=hub.endpoint, token=OWNER_TOKEN)
    for other in (options, FetchOptions(cache_dir=options.cache_dir, endpoint=hub.endpoint, token=STRANGER_TOKEN)):
        with pytest.raises(ghostzoo.FetchError, match="does not exist or is private"):
            fetch("zoo/private", other)
    assert fetch("zoo/private", own).origin == "hub"
    assert OWNER_TOKEN not in repr(own)


def test_a_pinned_model_is_fetched_by_name_and_then_needs_no_hub(
    hub: LoopbackHub, commit: str, options: FetchOptions, tiny_bundle: Bundle, lock: Path
) -> None:
    sha256 = hashlib.sha256((tiny_bundle.path / "ghostzoo.json").read_bytes()).hexdigest()
    write_lock({"GhostNet_x1_0": Pin(REPO, commit, sha256)}, lock)
    assert fetch("GhostNet_x1_0", options).origin == "hub"
    hub.stop()
    assert fetch("GhostNet_x1_0", options).origin == "cache"


def test_a_manifest_other_than_the_pinned_one_is_refused(
    hub: LoopbackHub, commit: str, options: FetchOptions, lock: Path
) -> None:
    assert fetch(f"{REPO}@{commit}", options).origin == "hub"
    write_lock({"GhostNet_x1_0": Pin(REPO, commit, "0" * 64)}, lock)
    with pytest.raises(ghostzoo.BundleError, match="not the published one"):
        fetch("GhostNet_x1_0", options)
    with pytest.raises(ghostzoo.BundleError, match="not the published one"):
        fetch(f"{REPO}@{commit}", options)


def test_a_namespace_is_asked_for_models_by_name(
    hub: LoopbackHub, options: FetchOptions, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("zoo/flowers", tiny_bundle.path)
    with pytest.raises(ghostzoo.UnknownModelError):
        fetch("flowers", options)
    monkeypatch.setenv("GHOSTZOO_HUB_NAMESPACE", "zoo")
    assert fetch("flowers", options).origin == "hub"
    hub.stop()
    assert fetch("flowers", options).origin == "cache"
    monkeypatch.setenv("GHOSTZOO_HUB_NAMESPACE", "no such/thing")
    with pytest.raises(ghostzoo.OptionError, match="GHOSTZOO_HUB_NAMESPACE"):
        fetch("flowers", options)


def test_without_the_hub_the_official_weights_come_next(
    hub: LoopbackHub, options: FetchOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GHOSTZOO_HUB_NAMESPACE", "zoo")
    with pytest.raises(
        ghostzoo.FetchError, match=r"not found\. Official weights: there is.*\(2\) Hub: hf://zoo/GhostNet_x1_0"
    ):
        fetch("GhostNet_x1_0", options)
    assert "Going on with the official weights" in caplog.text
    caplog.clear()
    with pytest.raises(ghostzoo.FetchError):
        fetch("GhostNet_x1_0", replace(options, offline=True))
    assert "Going on" not in caplog.text


def test_several_processes_download_a_repository_once(hub: LoopbackHub, commit: str, run: Run) -> None:
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(run, "pull", REPO, HF_ENDPOINT=hub.endpoint) for _ in range(3)]
        assert [each.result().returncode for each in runs] == [0, 0, 0]
    assert len(hub.seen("GET", "config.json$")) == 2  # config.json and preprocessor_config.json
    (entry,) = json_lines(run("cache", "list", "--json"))
    assert entry["name"] == f"{REPO}@{commit}"


def test_a_proxy_leads_to_the_hub(hub: LoopbackHub, commit: str, run: Run) -> None:
    proxy = hub.endpoint
    result = run("pull", REPO, "--endpoint", "http://hub.invalid", HTTP_PROXY=proxy, http_proxy=proxy)
    assert result.returncode == 0, result.stderr
    assert hub.seen("GET", r"config\.json")


def test_a_certificate_is_checked_against_the_users_authorities(tmp_path: Path, run: Run) -> None:
    """The server is no Hub: that it is asked at all, and answers 404, shows that its certificate was taken."""
    tls, authority = certified("127.0.0.1", tmp_path)
    with serve({}, tls=tls) as address:
        refused = run("pull", f"hf://{REPO}", "--endpoint", address)
        assert "certificate is not trusted" in refused.stderr
        assert "SSL_CERT_FILE" in refused.stderr
        trusted = run("pull", f"hf://{REPO}", "--endpoint", address, SSL_CERT_FILE=str(authority))
        assert "it answered 404" in trusted.stderr


@pytest.mark.parametrize("reference", ["hf://", "hf://name", "hf://a/b/c", "hf://a--b/c", "hf://../c", "hf://a/b@"])
def test_what_is_no_repository_is_said_to_be_none(reference: str, options: FetchOptions) -> None:
    with pytest.raises(ghostzoo.OptionError, match="names no repository of the Hub"):
        fetch(reference, options)


def test_options_that_cannot_be_honoured_are_errors(tiny_bundle: Bundle, options: FetchOptions) -> None:
    at = FetchOptions("v1", options.cache_dir, endpoint=options.endpoint)
    for model in (tiny_bundle.path, "./here", "GhostNet_x1_0", None):
        with pytest.raises(ghostzoo.OptionError, match="'v1' is for a repository"):
            fetch(model, at)
    with pytest.raises(ghostzoo.OptionError, match="give one"):
        fetch("zoo/tiny@v2", at)
    with pytest.raises(ghostzoo.OptionError, match="endpoint"):
        FetchOptions(endpoint="ftp://hub")
    with pytest.raises(ghostzoo.OptionError, match="revision"):
        FetchOptions(revision=" ")


def test_a_folder_that_is_missing_is_named_beside_the_repository(options: FetchOptions) -> None:
    with pytest.raises(ghostzoo.FetchError, match="There is no folder models/mine, and the Hub"):
        fetch("models/mine", options)
    with pytest.raises(ghostzoo.BundleError, match="no such folder"):
        fetch("./models/mine", options)

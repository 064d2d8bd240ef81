"""Publishing to a Hub with its real client: what arrives, what is recorded, what is refused, what is survived."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ghostzoo
from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import CARD_FILE, Bundle
from ghostzoo.bundle.manifest import MANIFEST_FILE
from ghostzoo.errors import BundleError
from ghostzoo.fetch import lockfile as hub_lock
from ghostzoo.fetch.lockfile import Pin, read_lock
from hub.card import CardFacts
from hub.publish import Target, publish, record
from hub.remote import PublishError
from tests.fixtures.hub import OWNER_TOKEN, STRANGER_TOKEN, LoopbackHub
from tests.fixtures.hub_faults import (
    Reply,
    conflict,
    corrupted,
    dropped,
    forbidden,
    gated,
    no_entry,
    no_repository,
    no_revision,
    precondition_failed,
    slow,
    too_many_requests,
    truncated,
    unauthorised,
    unavailable,
)
from tests.hub.conftest import ROOT

pytestmark = pytest.mark.slow

FACTS = CardFacts()


def changed(bundle: Bundle, out: Path, contents: dict[str, bytes] | None = None, name: str | None = None) -> Bundle:
    """The bundle under another manifest, with further files or another name."""
    files = {file: bundle.read(file) for file in bundle.manifest.files} | (contents or {})
    weights = bundle.manifest.weights
    return write_bundle(out, name=name or bundle.name, contents=files, weights=weights, created_by={}, validation={})


def test_what_is_published_is_what_is_loaded(hub: LoopbackHub, target: Target, bundle: Bundle, tmp_path: Path) -> None:
    result = publish(bundle.path, replace(target, tag="v1.0"), FACTS)
    repository = hub.repositories["zoo/tiny"]
    assert [commit.title for commit in repository.history(repository.commits[repository.head])] == [
        f"tiny, with ghostzoo {ghostzoo.__version__}",
        "initial commit",
    ]
    assert repository.tags == {"v1.0": repository.head}
    manifest = repository.commits[repository.head].files[MANIFEST_FILE].content
    pin = Pin("zoo/tiny", repository.head, hashlib.sha256(manifest).hexdigest())
    assert (result.created, result.uploaded, result.pin) == (True, True, pin)
    assert read_lock(target.lock_file) == {"tiny": pin}

    images = np.random.default_rng(0).integers(0, 256, (3, 80, 90, 3), np.uint8)
    with (
        ghostzoo.load("zoo/tiny@v1.0", endpoint=hub.endpoint, cache_dir=tmp_path / "cache") as published,
        ghostzoo.load(bundle.path) as local,
    ):
        assert published.bundle.origin == "hub"
        assert published.logits(list(images)).tobytes() == local.logits(list(images)).tobytes()
        assert published.bundle.manifest.files.keys() == bundle.manifest.files.keys()
    assert b"# tiny" in bundle.read(CARD_FILE)
    assert Bundle.open(bundle.path).manifest == bundle.manifest  # the published bundle itself stays as it is


def test_a_catalog_model_is_found_by_its_name(
    hub: LoopbackHub, target: Target, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = changed(bundle, tmp_path / "local", name="GhostNet_x1_0")
    publish(local.path, target, FACTS)
    monkeypatch.setattr(hub_lock, "LOCK_FILE", target.lock_file)
    options = {"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache"}
    image = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    with ghostzoo.load(local.path) as own:
        expected = own.logits([image]).tobytes()
    with ghostzoo.load("GhostNet_x1_0", **options) as published:
        assert published.bundle.origin == "hub"
        assert published.logits([image]).tobytes() == expected
    hub.stop()
    with ghostzoo.load("GhostNet_x1_0", **options) as again:
        assert again.bundle.origin == "cache"
        assert again.logits([image]).tobytes() == expected


def test_the_same_again_is_no_commit(hub: LoopbackHub, target: Target, bundle: Bundle) -> None:
    first = publish(bundle.path, target, FACTS)
    lock = target.lock_file.read_bytes()
    second = publish(bundle.path, replace(target, tag="v1.0"), FACTS)
    assert (second.created, second.uploaded, second.pin) == (False, False, first.pin)
    assert len(hub.repositories["zoo/tiny"].commits) == 2
    assert len(hub.seen("POST", "/commit/")) == 1
    assert hub.repositories["zoo/tiny"].tags == {"v1.0": second.pin.commit}
    publish(bundle.path, replace(target, tag="v1.0"), FACTS)
    assert target.lock_file.read_bytes() == lock


def test_a_downloaded_bundle_published_again_is_the_same(
    hub: LoopbackHub, target: Target, bundle: Bundle, tmp_path: Path
) -> None:
    first = publish(bundle.path, target, FACTS)
    with ghostzoo.load("zoo/tiny", endpoint=hub.endpoint, cache_dir=tmp_path / "cache") as published:
        assert not publish(published.bundle.path, target, FACTS).uploaded
    assert read_lock(target.lock_file)["tiny"] == first.pin


def test_new_content_is_a_new_commit_without_stale_graphs(
    hub: LoopbackHub, target: Target, bundle: Bundle, tmp_path: Path
) -> None:
    larger = changed(bundle, tmp_path / "larger", {"onnx/model_quantized.onnx": b"graph"})
    publish(larger.path, target, FACTS)
    assert "onnx/model_quantized.onnx" in hub.repositories["zoo/tiny"].resolve("main").files
    hub.add("zoo/tiny", {"LICENSE": b"somebody's own"})
    result = publish(bundle.path, target, FACTS)
    repository = hub.repositories["zoo/tiny"]
    assert (result.uploaded, len(repository.commits)) == (True, 4)
    assert set(repository.resolve("main").files) == {".gitattributes", "LICENSE", MANIFEST_FILE, *bundle.manifest.files}
    assert read_lock(target.lock_file)["tiny"].commit == repository.head
    assert not publish(bundle.path, target, FACTS).uploaded


def test_a_private_repository(hub: LoopbackHub, target: Target, bundle: Bundle, tmp_path: Path) -> None:
    publish(bundle.path, replace(target, private=True), FACTS)
    assert hub.repositories["zoo/tiny"].private
    with pytest.raises(ghostzoo.GhostZooError, match="zoo/tiny"):
        ghostzoo.load("zoo/tiny", endpoint=hub.endpoint, token=False, cache_dir=tmp_path / "cache")
    publish(bundle.path, target, FACTS)  # stays private
    assert hub.repositories["zoo/tiny"].private


def refused(bundle: Bundle, target: Target, match: str) -> str:
    with pytest.raises(PublishError, match=match) as caught:
        publish(bundle.path, target, FACTS)
    message = str(caught.value)
    assert "zoo/tiny" in message
    assert target.endpoint in message
    assert "\n" not in message
    assert len(message) < 500
    assert not target.lock_file.exists()
    return message


def test_what_is_public_is_not_taken_for_private(hub: LoopbackHub, target: Target, bundle: Bundle) -> None:
    hub.add("zoo/tiny", {"README.md": b"# soon\n"})
    refused(bundle, replace(target, private=True), "public already")
    publish(bundle.path, target, FACTS)


def test_what_is_no_ghostzoo_model_is_left_alone(hub: LoopbackHub, target: Target, bundle: Bundle) -> None:
    head = hub.add("zoo/tiny", {"model.safetensors": b"somebody's own"})
    refused(bundle, target, "not a ghostzoo model")
    assert hub.repositories["zoo/tiny"].head == head


def test_a_tag_does_not_move(hub: LoopbackHub, target: Target, bundle: Bundle, tmp_path: Path) -> None:
    publish(bundle.path, replace(target, tag="v1.0"), FACTS)
    target.lock_file.unlink()
    other = changed(bundle, tmp_path / "other")
    refused(other, replace(target, tag="v1.0"), "tag v1.0 of another content")
    assert len(hub.repositories["zoo/tiny"].commits) == 2
    publish(other.path, replace(target, tag="v1.1"), FACTS)
    assert set(hub.repositories["zoo/tiny"].tags) == {"v1.0", "v1.1"}


@pytest.mark.parametrize(("token", "match"), [(STRANGER_TOKEN, "may not write to zoo"), ("hf_invalid", "not valid")])
def test_a_token_without_the_right(target: Target, bundle: Bundle, token: str, match: str) -> None:
    refused(bundle, replace(target, token=token), match)


def test_a_dry_run_changes_nothing(hub: LoopbackHub, target: Target, bundle: Bundle) -> None:
    dry = replace(target, dry_run=True, tag="v1.0")
    plan = publish(bundle.path, dry, FACTS)
    assert (plan.created, plan.uploaded, plan.pin) == (True, True, None)
    assert set(plan.files) == {MANIFEST_FILE, *bundle.manifest.files}
    assert hub.repositories == {}
    publish(bundle.path, target, FACTS)
    assert not publish(bundle.path, dry, FACTS).uploaded
    assert hub.repositories["zoo/tiny"].tags == {}
    assert {request.method for request in hub.requests if "/tag/" in request.path} == set()


def test_a_damaged_bundle_is_not_published(hub: LoopbackHub, target: Target, bundle: Bundle) -> None:
    (bundle.path / "config.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match=r"config\.json"):
        publish(bundle.path, target, FACTS)
    assert hub.requests == []


REFUSALS = [
    ("GET", "/api/whoami-v2", unauthorised()),
    ("GET", "/api/models/zoo/tiny$", gated()),
    ("GET", "/api/models/zoo/tiny$", forbidden()),
    ("POST", "/api/repos/create", unauthorised()),
    ("POST", "/api/repos/create", forbidden()),
    ("POST", "/api/models/zoo/tiny/preupload/", no_revision()),
    ("POST", "/info/lfs/objects/batch", forbidden()),
    ("PUT", "/lfs/", forbidden()),
    ("POST", "/api/models/zoo/tiny/commit/", no_repository()),
    ("POST", "/api/models/zoo/tiny/commit/", conflict()),
    ("POST", "/api/models/zoo/tiny/commit/", precondition_failed()),
    ("GET", "/resolve/[0-9a-f]{40}/", no_entry()),
    ("POST", "/api/models/zoo/tiny/tag/", conflict()),
    ("POST", "/api/models/zoo/tiny/tag/", no_revision()),
]


@pytest.mark.parametrize(("method", "path", "fault"), REFUSALS)
def test_a_refusal_is_one_line_and_the_next_run_succeeds(
    hub: LoopbackHub, target: Target, bundle: Bundle, method: str, path: str, fault: Reply
) -> None:
    hub.inject(method, path, fault, times=None)
    tagged = replace(target, tag="v1.0")
    refused(bundle, tagged, "failed|cannot be downloaded again")
    hub.heal()
    result = publish(bundle.path, tagged, FACTS)
    assert hub.repositories["zoo/tiny"].tags == {"v1.0": result.pin.commit}
    assert len(hub.repositories["zoo/tiny"].commits) == 2
    assert read_lock(target.lock_file) == {"tiny": result.pin}


@pytest.mark.parametrize(
    ("method", "path", "fault"),
    [
        ("POST", "/preupload/", too_many_requests()),
        ("POST", "/preupload/", unavailable()),
        ("POST", "/info/lfs/objects/batch", unavailable()),
        ("PUT", "/lfs/", unavailable()),
        ("GET", "/cdn/", unavailable()),
        ("GET", "/cdn/", too_many_requests()),
        ("GET", "/cdn/", truncated(100)),
        ("GET", "/cdn/", slow(0.1)),
        ("POST", "/commit/", slow(0.2)),
    ],
)
def test_what_passes_is_survived(
    hub: LoopbackHub,
    target: Target,
    bundle: Bundle,
    method: str,
    path: str,
    fault: Reply | Callable[[Reply], Reply],
) -> None:
    injected = hub.inject(method, path, fault)
    result = publish(bundle.path, target, FACTS)
    assert injected.met == 1
    assert read_lock(target.lock_file) == {"tiny": result.pin}


@pytest.mark.parametrize("fault", [too_many_requests(7), unavailable(), dropped])
def test_a_commit_that_fails_is_said_and_made_the_next_time(
    hub: LoopbackHub, target: Target, bundle: Bundle, fault: Reply | Callable[[Reply], Reply]
) -> None:
    hub.inject("POST", "/commit/", fault)
    message = refused(bundle, target, "uploading failed")
    assert "run the same command again" in message
    result = publish(bundle.path, target, FACTS)
    assert result.uploaded == (fault is not dropped)  # where only the answer was lost, the commit was there
    assert len(hub.repositories["zoo/tiny"].commits) == 2


def test_a_server_that_is_gone(hub: LoopbackHub, target: Target, bundle: Bundle) -> None:
    hub.stop()
    refused(bundle, target, "the connection failed")
    hub.start()
    publish(bundle.path, target, FACTS)


def test_a_byte_that_was_changed_on_the_way_back_is_found(hub: LoopbackHub, target: Target, bundle: Bundle) -> None:
    fault = hub.inject("GET", "/cdn/", corrupted, times=None)
    with pytest.raises(PublishError, match="neither tagged nor recorded"):
        publish(bundle.path, replace(target, tag="v1.0"), FACTS)
    assert fault.met
    assert hub.repositories["zoo/tiny"].tags == {}
    assert not target.lock_file.exists()
    hub.heal()
    publish(bundle.path, replace(target, tag="v1.0"), FACTS)
    assert len(hub.repositories["zoo/tiny"].commits) == 2


def test_processes_write_one_lock_file(tmp_path: Path) -> None:
    lock = tmp_path / "hub.lock.json"
    script = (
        "import sys, pathlib\n"
        "from hub.publish import record, Pin\n"
        "for n in range(5):\n"
        "    record(f'{sys.argv[2]}-{n}', Pin('zoo/a', '0' * 40, 'f' * 64), pathlib.Path(sys.argv[1]))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(lock), str(n)], cwd=ROOT) for n in range(3)]
    assert [process.wait() for process in processes] == [0] * 3
    assert len(read_lock(lock)) == 15
    assert [path.name for path in tmp_path.iterdir()] == ["hub.lock.json"]


def test_where_nothing_can_be_locked_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(PublishError, match=r"not recorded.*set GHOSTZOO_CACHE"):
        record("a", Pin("zoo/a", "0" * 40, "f" * 64), tmp_path / "hub.lock.json")
    assert not (tmp_path / "hub.lock.json").exists()


def test_a_lock_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PublishError, match="cannot be written"):
        record("a", Pin("zoo/a", "0" * 40, "f" * 64), tmp_path / "file" / "hub.lock.json")


def run(environment: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hub", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_command(hub: LoopbackHub, bundle: Bundle, environment: dict[str, str], tmp_path: Path) -> None:
    lock = tmp_path / "hub.lock.json"
    arguments = ("publish", bundle.path, "--namespace", "zoo", "--tag", "v1.0", "--lock", lock)
    plan = run(environment, *arguments, "--dry-run")
    assert (plan.returncode, plan.stderr) == (0, "")
    assert "would: creates the repository, uploads 6 files" in " ".join(plan.stdout.split())
    done = run(environment, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    commit = json.loads(lock.read_text())["tiny"]["commit"]
    assert hub.repositories["zoo/tiny"].tags == {"v1.0": commit}
    again = run(environment, *arguments)
    assert "same content, no upload" in " ".join(again.stdout.split())
    hub.stop()
    gone = run(environment, *arguments)
    assert gone.returncode == 1
    assert gone.stderr.startswith("Error: zoo/tiny on ")
    assert gone.stderr.count("\n") == 1


def test_the_command_refuses_before_it_begins(
    hub: LoopbackHub, bundle: Bundle, environment: dict[str, str], tmp_path: Path
) -> None:
    done = run(environment, "publish", bundle.path, tmp_path / "absent", "--namespace", "zoo")
    assert (done.returncode, hub.requests) == (1, [])
    assert "absent" in done.stderr
    assert run(environment, "publish", bundle.path).returncode == 2


def test_a_collection_is_every_model_of_the_catalog(
    hub: LoopbackHub, tiny_bundle: Bundle, environment: dict[str, str], tmp_path: Path
) -> None:
    names = ghostzoo.list_models()
    for name in names:
        if not ghostzoo.get_model(name).embedded:
            changed(tiny_bundle, tmp_path / "bundles" / name, name=name)
    lock = tmp_path / "hub.lock.json"
    arguments = ("collection", "--bundles", tmp_path / "bundles", "--namespace", "zoo", "--lock", lock)
    done = run(environment | {"HF_TOKEN": OWNER_TOKEN}, *arguments)
    assert done.returncode == 0, done.stderr
    assert set(read_lock(lock)) == set(names)
    assert set(hub.repositories) == {f"zoo/{name}" for name in names}

"""The loopback Hub, held against the real client: what this file sees in it, other tests may rely on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

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

FILES = {"README.md": b"# tiny\n", "onnx/model.onnx": bytes(range(256)) * 2000, "config.json": b"{}\n"}


@pytest.fixture(autouse=True)
def no_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=OWNER_TOKEN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "folder"


def download(hub: LoopbackHub, cache: Path, name: str = "README.md", **options: object) -> bytes:
    path = hf_hub_download("zoo/tiny", name, endpoint=hub.endpoint, cache_dir=cache, **options)
    return Path(path).read_bytes()


def test_a_repository_is_made_filled_tagged_and_read_back(
    hub: LoopbackHub, api: HfApi, folder: Path, tmp_path: Path
) -> None:
    assert api.whoami()["name"] == "tester"
    url = api.create_repo("zoo/tiny", exist_ok=True)
    assert url.repo_id == "zoo/tiny"
    assert api.create_repo("zoo/tiny", exist_ok=True) == url
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("zoo/tiny")
    commit = api.upload_folder(repo_id="zoo/tiny", folder_path=folder, commit_message="first").oid
    api.create_tag("zoo/tiny", tag="v1.0", revision=commit)
    snapshot = Path(snapshot_download("zoo/tiny", revision="v1.0", endpoint=hub.endpoint, cache_dir=tmp_path / "cache"))
    assert snapshot.name == commit
    assert {name: (snapshot / name).read_bytes() for name in FILES} == FILES
    assert [entry.title for entry in api.list_repo_commits("zoo/tiny")] == ["first", "initial commit"]
    refs = api.list_repo_refs("zoo/tiny")
    assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1.0", commit)]
    assert [branch.target_commit for branch in refs.branches] == [commit]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("zoo/tiny", tag="v1.0")
    api.delete_tag("zoo/tiny", tag="v1.0")
    assert api.list_repo_refs("zoo/tiny").tags == []


def test_the_same_files_again_are_no_commit(hub: LoopbackHub, api: HfApi, folder: Path) -> None:
    api.create_repo("zoo/tiny")
    first = api.upload_folder(repo_id="zoo/tiny", folder_path=folder, commit_message="first").oid
    assert api.upload_folder(repo_id="zoo/tiny", folder_path=folder, commit_message="second").oid == first
    assert len(hub.repositories["zoo/tiny"].commits) == 2


def test_it_describes_its_files(hub: LoopbackHub, api: HfApi) -> None:
    commit = hub.add("zoo/tiny", FILES)
    model = hashlib.sha256(FILES["onnx/model.onnx"]).hexdigest()
    info = api.model_info("zoo/tiny", files_metadata=True)
    assert (info.sha, info.private, info.gated) == (commit, False, False)
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or []}
    assert {name: sizes[name] for name in FILES} == {name: len(content) for name, content in FILES.items()}
    tree = {entry.path: entry for entry in api.list_repo_tree("zoo/tiny", recursive=True, expand=True)}
    assert set(tree) == {*FILES, ".gitattributes", "onnx"}
    assert tree["onnx/model.onnx"].lfs.sha256 == model
    assert [entry.path for entry in api.list_repo_tree("zoo/tiny", "onnx")] == ["onnx/model.onnx"]
    [info] = api.get_paths_info("zoo/tiny", ["onnx/model.onnx"])
    assert (info.size, info.lfs.sha256) == (len(FILES["onnx/model.onnx"]), model)
    assert api.file_exists("zoo/tiny", "config.json")
    assert not api.file_exists("zoo/tiny", "absent")


def test_commits_delete_and_know_their_parent(hub: LoopbackHub, api: HfApi) -> None:
    first = hub.add("zoo/tiny", FILES)
    second = api.create_commit("zoo/tiny", [CommitOperationDelete("config.json")], commit_message="less").oid
    assert "config.json" not in api.list_repo_files("zoo/tiny")
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("zoo/tiny", [CommitOperationAdd("a", b"a")], commit_message="stale", parent_commit=first)
    assert hub.repositories["zoo/tiny"].head == second


def test_a_card_that_the_hub_would_refuse_is_refused(hub: LoopbackHub, api: HfApi) -> None:
    hub.add("zoo/tiny", FILES)
    for wrong in ("license: my own", "tags: onnx", "model-index: {}", "a: [", "- a"):
        card = f"---\n{wrong}\n---\n# tiny\n".encode()
        with pytest.raises((ValueError, HfHubHTTPError)):
            api.create_commit("zoo/tiny", [CommitOperationAdd("README.md", card)], commit_message="card")


@pytest.mark.parametrize(
    ("token", "revision", "file", "error"),
    [
        (None, None, "README.md", RepositoryNotFoundError),
        (STRANGER_TOKEN, None, "README.md", RepositoryNotFoundError),
        (OWNER_TOKEN, "v9", "README.md", RevisionNotFoundError),
        (OWNER_TOKEN, None, "absent", RemoteEntryNotFoundError),
        ("hf_invalid", None, "README.md", HfHubHTTPError),
    ],
)
def test_what_a_private_repository_answers(
    hub: LoopbackHub,
    tmp_path: Path,
    token: str | None,
    revision: str | None,
    file: str,
    error: type[Exception],
) -> None:
    hub.add("zoo/tiny", FILES, private=True)
    with pytest.raises(error) as caught:
        download(hub, tmp_path, file, token=token or False, revision=revision)
    assert type(caught.value) is error
    assert download(hub, tmp_path, token=OWNER_TOKEN) == FILES["README.md"]


@pytest.mark.parametrize("token", [False, STRANGER_TOKEN])
def test_what_a_gated_repository_answers(hub: LoopbackHub, tmp_path: Path, token: str | bool) -> None:
    hub.add("zoo/tiny", FILES, gated=True)
    with pytest.raises(GatedRepoError):
        download(hub, tmp_path, token=token)
    assert download(hub, tmp_path, token=OWNER_TOKEN) == FILES["README.md"]


def test_others_may_not_write(hub: LoopbackHub) -> None:
    hub.add("zoo/tiny", FILES)
    for token, status in ((STRANGER_TOKEN, "403"), (False, "401")):
        api = HfApi(endpoint=hub.endpoint, token=token)
        with pytest.raises(HfHubHTTPError, match=status):
            api.create_repo("zoo/other")
        with pytest.raises(HfHubHTTPError, match=status):
            api.create_tag("zoo/tiny", tag="v1.0")


FAULTS: list[tuple[Reply, type[Exception], int]] = [
    (unauthorised(), HfHubHTTPError, 401),
    (forbidden(), HfHubHTTPError, 403),
    (gated(), GatedRepoError, 403),
    (no_repository(), RepositoryNotFoundError, 404),
    (no_revision(), RevisionNotFoundError, 404),
    (no_entry(), RemoteEntryNotFoundError, 404),
    (conflict(), HfHubHTTPError, 409),
    (precondition_failed(), HfHubHTTPError, 412),
]


@pytest.mark.parametrize(("fault", "error", "status"), FAULTS)
def test_a_fault_replaces_an_answer_and_is_gone(
    hub: LoopbackHub, api: HfApi, fault: Reply, error: type[Exception], status: int
) -> None:
    hub.add("zoo/tiny", FILES)
    injected = hub.inject("POST", "/api/models/zoo/tiny/commit/", fault)
    with pytest.raises(error) as caught:
        api.create_commit("zoo/tiny", [CommitOperationAdd("a", b"a")], commit_message="a")
    assert type(caught.value) is error
    assert caught.value.response.status_code == status
    assert injected.met == 1
    assert "a" not in api.list_repo_files("zoo/tiny")
    api.create_commit("zoo/tiny", [CommitOperationAdd("a", b"a")], commit_message="a")
    assert "a" in api.list_repo_files("zoo/tiny")


@pytest.mark.parametrize("fault", [too_many_requests(), slow(0.1)])
def test_a_fault_that_passes_is_survived(
    hub: LoopbackHub, tmp_path: Path, fault: Reply | Callable[[Reply], Reply]
) -> None:
    hub.add("zoo/tiny", FILES)
    injected = hub.inject("GET", "/cdn/", fault)
    assert download(hub, tmp_path, "onnx/model.onnx") == FILES["onnx/model.onnx"]
    assert injected.met == 1


def test_a_connection_that_breaks_is_taken_up_again(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.add("zoo/tiny", FILES)
    hub.inject("GET", "/cdn/", truncated(100_000))
    assert download(hub, tmp_path, "onnx/model.onnx") == FILES["onnx/model.onnx"]
    assert len(hub.seen("GET", "/cdn/")) == 2


def test_an_unavailable_cdn_is_not_tried_again_by_the_client(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.add("zoo/tiny", FILES)
    hub.inject("GET", "/cdn/", unavailable())
    with pytest.raises(HfHubHTTPError, match="503"):
        download(hub, tmp_path, "onnx/model.onnx")
    assert download(hub, tmp_path, "onnx/model.onnx") == FILES["onnx/model.onnx"]


def test_parts_of_a_file_are_sent(hub: LoopbackHub) -> None:
    hub.add("zoo/tiny", FILES)
    content = FILES["onnx/model.onnx"]
    url = f"{hub.endpoint}/zoo/tiny/resolve/main/onnx/model.onnx"
    for wanted, status, body, told in (
        ("bytes=511990-", 206, content[-10:], "bytes 511990-511999/512000"),
        ("bytes=0-9", 206, content[:10], "bytes 0-9/512000"),
        ("bytes=512000-", 416, b"", "bytes */512000"),
    ):
        answer = requests.get(url, headers={"Range": wanted}, timeout=10)
        assert (answer.status_code, answer.content, answer.headers["Content-Range"]) == (status, body, told)


def test_the_client_misses_wrong_bytes_of_the_right_size(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.add("zoo/tiny", FILES)
    hub.inject("GET", "/cdn/", corrupted)
    got = download(hub, tmp_path, "onnx/model.onnx")
    assert len(got) == len(FILES["onnx/model.onnx"])
    assert got != FILES["onnx/model.onnx"]


def test_a_commit_whose_answer_is_lost_was_made(hub: LoopbackHub, api: HfApi) -> None:
    hub.add("zoo/tiny", FILES)
    hub.inject("POST", "/commit/", dropped)
    with pytest.raises(Exception, match=r"(?i)disconnect|connection"):
        api.create_commit("zoo/tiny", [CommitOperationAdd("a", b"a")], commit_message="a")
    assert "a" in api.list_repo_files("zoo/tiny")


def test_it_goes_and_comes_back_at_the_same_address(hub: LoopbackHub, api: HfApi) -> None:
    hub.add("zoo/tiny", FILES)
    endpoint = hub.endpoint
    assert api.model_info("zoo/tiny").id == "zoo/tiny"
    hub.stop()
    with pytest.raises(Exception, match=r"(?i)connect|refused|disconnect"):
        api.model_info("zoo/tiny")
    hub.start()
    assert hub.endpoint == endpoint
    assert api.model_info("zoo/tiny").id == "zoo/tiny"


def test_the_token_is_not_sent_to_the_cdn(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.add("zoo/tiny", FILES, private=True)
    download(hub, tmp_path, "onnx/model.onnx", token=OWNER_TOKEN)
    [request] = hub.seen("GET", "/cdn/")
    assert "authorization" not in request.headers
    assert request.headers["host"].startswith("localhost:")

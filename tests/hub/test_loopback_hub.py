"""The loopback Hub, held against the real client: what this file sees in it, other tests may rely on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.fixtures.hub import OWNER_TOKEN, LoopbackHub
from tests.fixtures.hub_faults import (
    Reply,
    conflict,
    forbidden,
    gated,
    no_entry,
    no_repository,
    no_revision,
    precondition_failed,
    unauthorised,
)

FILES = {"README.md": b"# tiny\n", "onnx/model.onnx": bytes(range(256)) * 2000, "config.json": b"{}\n"}


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


def test_the_token_is_not_sent_to_the_cdn(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.add("zoo/tiny", FILES, private=True)
    download(hub, tmp_path, "onnx/model.onnx", token=OWNER_TOKEN)
    [request] = hub.seen("GET", "/cdn/")
    assert "authorization" not in request.headers
    assert request.headers["host"].startswith("localhost:")

"""``ghostzoo cache`` and ``ghostzoo pull`` on a cache with whole, damaged, superseded and unfinished things in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from ghostzoo.bundle.folder import Bundle
from ghostzoo.catalog import list_models
from ghostzoo.cli.console import format_size
from ghostzoo.fetch.pruning import Removal, remove_prepared
from ghostzoo.fetch.store import Store
from tests.fetch.conftest import Run, json_lines

pytestmark = pytest.mark.slow

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def store(tmp_path: Path, tiny_bundle: Bundle) -> Store:
    """Two commits of a repository, of which a branch has moved from the first to the second, and an official model."""
    store = Store(tmp_path / "cache" / "models")
    for path in (
        store.hub_path("zoo/tiny", OLD),
        store.hub_path("zoo/tiny", NEW),
        store.official_path("GhostNet_x1_0"),
    ):
        shutil.copytree(tiny_bundle.path, path)
    for commit in (OLD, NEW):
        store.remember_commit("zoo/tiny", "https://hub", "main", commit)
    (store.official_path("GhostNet_x1_0").parent / "first-download.json").write_text("{}")
    return store


def names(run: Run) -> list[str]:
    return [entry["name"] for entry in json_lines(run("cache", "list", "--json"))]


def test_an_empty_cache_is_no_error(run: Run, tmp_path: Path) -> None:
    for command in ("list", "verify", "prune"):
        result = run("cache", command)
        assert (result.returncode, result.stdout) == (0, "")
    assert run("cache", "path").stdout == f"{tmp_path / 'cache' / 'models'}\n"
    assert run("cache", "path", "--cache-dir", tmp_path).stdout == f"{tmp_path}\n"


def test_list_shows_what_is_there_and_its_size(run: Run, store: Store, tiny_bundle: Bundle) -> None:
    entries = json_lines(run("cache", "list", "--json"))
    assert [entry["name"] for entry in entries] == ["GhostNet_x1_0", f"zoo/tiny@{OLD}", f"zoo/tiny@{NEW}"]
    size = sum(path.stat().st_size for path in tiny_bundle.path.rglob("*") if path.is_file())
    assert {entry["bytes"] for entry in entries} == {size}
    paths = [store.official_path("GhostNet_x1_0"), store.hub_path("zoo/tiny", OLD), store.hub_path("zoo/tiny", NEW)]
    assert [entry["path"] for entry in entries] == list(map(str, paths))
    shown = run("cache", "list").stdout.splitlines()
    assert shown[0].split() == ["model", "size", "folder"]
    assert [line.split()[-1] for line in shown[1:4]] == [str(path.relative_to(store.root)) for path in paths]
    assert shown[4:] == [f"{format_size(3 * size)} in {store.root}"]


def test_verify_finds_the_damaged_one(run: Run, store: Store) -> None:
    assert run("cache", "verify").returncode == 0
    (store.hub_path("zoo/tiny", NEW) / "config.json").write_bytes(b"{}")
    result = run("cache", "verify")
    assert result.returncode == 1
    assert f"Error: zoo/tiny@{NEW}" in result.stderr
    assert "config.json" in result.stderr
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["state", "whole", "whole", "damaged"]
    assert run("cache", "verify", "GhostNet_x1_0").returncode == 0
    missing = run("cache", "verify", "flowers")
    assert missing.returncode == 1
    assert "holds no 'flowers'" in missing.stderr


def test_prune_takes_only_what_is_of_no_use(run: Run, store: Store) -> None:
    damaged = store.official_path("GhostNet_x1_0")
    (damaged / "golden.npz").unlink()
    left = store.hub_path("zoo/tiny", f".{NEW}-abc.tmp")
    left.mkdir()
    part = damaged.with_name(".GhostNet_x1_0_pretrained.pdparams.part")
    part.write_bytes(bytes(1000))
    shown = run("cache", "prune", "--dry-run").stdout
    assert (shown.count("unfinished"), shown.count("damaged"), shown.count("superseded")) == (2, 1, 1)
    assert len(names(run)) == 3
    assert all(not line.startswith("/") and line.endswith((" kB", " MB", " bytes")) for line in shown.splitlines())
    done = run("cache", "prune")
    assert done.stdout == shown
    assert done.stderr.endswith(" were freed.\n")
    assert names(run) == [f"zoo/tiny@{NEW}"]
    assert not left.exists()
    assert not part.exists()
    assert damaged.with_name("first-download.json").exists()


def test_prune_leaves_a_running_download_alone(run: Run, store: Store) -> None:
    folder = store.official_path("GhostNet_x1_0").parent
    part = folder / ".GhostNet_x1_0_pretrained.pdparams.part"
    part.write_bytes(bytes(1000))
    with FileLock(folder / ".bundle.lock"):
        run("cache", "prune")
    assert part.exists()


def test_prune_takes_what_is_named_or_all(run: Run, store: Store, tmp_path: Path) -> None:
    assert run("cache", "prune", f"zoo/tiny@{OLD}").returncode == 0
    assert names(run) == ["GhostNet_x1_0", f"zoo/tiny@{NEW}"]
    prepared = tmp_path / "cache" / "onnxruntime"
    prepared.mkdir()
    (prepared / "x").write_bytes(bytes(10))
    assert run("cache", "prune", "--all").returncode == 0
    assert names(run) == []
    assert not prepared.exists()
    assert run("cache", "prune", "--all", "x").returncode == 2


def test_prepared_models_that_another_has_removed_are_no_error(tmp_path: Path) -> None:
    remove_prepared(Removal(tmp_path / "gone", "prepared"))


def test_pull_needs_names_or_all_and_goes_on_after_a_failure(run: Run, store: Store) -> None:
    assert run("pull").returncode == 2
    assert run("pull", "--accept", "0" * 64, "zoo/tiny").returncode == 2
    result = run("pull", "GhostNet_x0_5", "GhostNet_x1_0", "--offline")
    assert result.returncode == 1
    assert "GhostNet_x1_0" in result.stdout
    assert result.stderr.startswith("Error: GhostNet_x0_5 was not found")
    everything = run("pull", "--all", "--offline")
    assert everything.returncode == 1
    assert "embedded" in everything.stdout
    assert everything.stderr.count("Error: ") == len(list_models()) - 2


@pytest.mark.parametrize("who", ["a reader", "a writer", "prune"])
def test_a_writer_killed_between_its_renames_loses_no_model(run: Run, store: Store, who: str) -> None:
    path = store.official_path("GhostNet_x1_0")
    scratch = path.with_name(f".{path.name}-abc_123.tmp")
    scratch.mkdir()
    path.rename(scratch / "replaced")  # as ``install`` does; the new one never came
    with store.exclusive(path.with_name("other")):  # another model's writer is no hindrance
        pass
    if who == "a reader":
        with FileLock(path.with_name(f".{path.name}.lock")):  # a living writer
            assert store.open(path) is None
        assert store.open(path) is not None
    elif who == "a writer":
        with store.exclusive(path):
            assert path.is_dir()
    else:
        assert run("cache", "prune").returncode == 0
    assert run("cache", "verify", "GhostNet_x1_0").returncode == 0

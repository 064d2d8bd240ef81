from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

import ghostzoo.bundle.edit
from ghostzoo._utils.files import write_atomically
from ghostzoo.bundle.edit import add_files
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import BundleError


@pytest.fixture
def folder(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.path, folder)
    return folder


def add(folder: Path, name: str, content: bytes) -> Bundle:
    return add_files(folder, {name: content}, created_by={"tool": "1"}, section="extras", facts={name: {"ok": True}})


def test_files_are_added_and_replaced_and_nothing_else_changes(folder: Path, tiny_bundle: Bundle) -> None:
    (folder / "notes.txt").write_text("mine")
    add(folder, "extra/a.bin", b"one")
    add(folder, "extra/b.bin", b"two")
    bundle = add(folder, "extra/a.bin", b"three")
    assert bundle.read("extra/a.bin") == b"three"
    assert bundle.read("extra/b.bin") == b"two"
    assert (folder / "notes.txt").read_text() == "mine"
    assert bundle.manifest.created_by == {**tiny_bundle.manifest.created_by, "tool": "1"}
    assert bundle.manifest.validation["extras"] == {"extra/a.bin": {"ok": True}, "extra/b.bin": {"ok": True}}
    assert {name: bundle.manifest.files[name] for name in tiny_bundle.manifest.files} == tiny_bundle.manifest.files


@pytest.mark.parametrize("failing", range(3))
def test_killed_at_any_moment_it_leaves_a_valid_bundle(
    folder: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folder, "extra/a.bin", b"one")
    calls = iter(range(10))

    def write(path: Path, data: bytes) -> None:
        if next(calls) == failing:
            raise KeyboardInterrupt
        write_atomically(path, data)

    monkeypatch.setattr(ghostzoo.bundle.edit, "write_atomically", write)
    with pytest.raises(KeyboardInterrupt):
        add(folder, "extra/a.bin", b"another")
    bundle = Bundle.open(folder)
    assert ("extra/a.bin" in bundle.manifest.files) == (failing == 0)
    monkeypatch.undo()
    assert add(folder, "extra/a.bin", b"another").read("extra/a.bin") == b"another"


def test_several_processes_lose_nothing_of_one_another(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add, args=(folder, f"extra/{index}.bin", bytes([index]))) for index in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 2
    bundle = Bundle.open(folder)
    assert [bundle.read(f"extra/{index}.bin") for index in range(2)] == [bytes([index]) for index in range(2)]
    assert len(bundle.manifest.validation["extras"]) == 2


@pytest.mark.skipif(os.name == "nt", reason="making links takes a privilege on Windows")
def test_a_folder_of_a_cache_is_left_alone(folder: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    (folder / "README.md").rename(blob)
    shutil.move(str(blob), folder / "blob")
    (folder / "README.md").symlink_to("blob")
    before = (folder / "ghostzoo.json").read_bytes()
    with pytest.raises(BundleError, match=r"README\.md is a link"):
        add(folder, "extra/a.bin", b"one")
    assert (folder / "ghostzoo.json").read_bytes() == before
    assert not (folder / "extra").exists()


def test_a_path_that_leads_out_is_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match="not a path inside"):
        add(folder, "../outside.bin", b"one")
    assert not (folder.parent / "outside.bin").exists()

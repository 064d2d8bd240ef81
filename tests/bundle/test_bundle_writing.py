"""A bundle is written whole or not at all, the same from the same contents, and never outside its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ghostzoo.bundle.edit import check_target
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import BundleError
from tests.fixtures.small_bundles import GRAPH, contents, snapshot, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny").path


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    assert snapshot(write(tmp_path / "a").path) == snapshot(write(tmp_path / "b").path)


def test_an_empty_folder_or_missing_parents_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    write(tmp_path / "a" / "b" / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty"]
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c"]


def test_an_existing_bundle_is_replaced_only_when_asked(folder: Path) -> None:
    before = snapshot(folder)
    with pytest.raises(BundleError, match="exists; choose another folder, or ask to overwrite"):
        write(folder, contents(b"new"))
    assert snapshot(folder) == before
    (folder / "old.txt").write_text("old")
    assert write(folder, contents(b"new"), overwrite=True).read(GRAPH) == b"new"
    assert not (folder / "old.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(path.name for path in tmp_path.iterdir())
    for name in ("work", "file", "dangling", "pipe"):
        with pytest.raises(BundleError, match="exists and is not a bundle"):
            write(tmp_path / name, overwrite=overwrite)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "work" / "thesis.txt").read_text() == "years"


def test_overwriting_a_link_keeps_what_it_leads_to(folder: Path) -> None:
    before = snapshot(folder)
    link = folder.parent / "link"
    link.symlink_to(folder, target_is_directory=True)
    assert write(link, contents(b"new"), overwrite=True).read(GRAPH) == b"new"
    assert snapshot(folder) == before


@pytest.mark.parametrize("name", ["../escaped", "{folder}/escaped", "a/../../escaped", "C:/x"])
def test_contents_never_land_outside(tmp_path: Path, name: str) -> None:
    name = name.format(folder=tmp_path)
    (tmp_path / "deep").mkdir()
    with pytest.raises(BundleError, match="not a path inside the bundle"):
        write(tmp_path / "deep" / "tiny", {**contents(), name: b"x"})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep"]


def test_contents_that_are_no_bundle_are_not_written(tmp_path: Path) -> None:
    for damage in ({"config.json": b"{}"}, {"preprocessor_config.json": b"[]"}):
        with pytest.raises(BundleError):
            write(tmp_path / "tiny", contents() | damage)
    incomplete = contents()
    del incomplete["golden.npz"]
    with pytest.raises(BundleError, match=r"golden\.npz"):
        write(tmp_path / "tiny", incomplete)
    assert not list(tmp_path.iterdir())


def test_a_failure_while_replacing_keeps_the_old_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(folder)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        write(folder, contents(b"new"), overwrite=True)
    assert snapshot(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


RUN = """
import sys, resource
from pathlib import Path
from tests.fixtures.small_bundles import contents, write
from ghostzoo.errors import BundleError
out, limit, overwrite = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "overwrite"
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.stdin.readline()
try:
    write(out, contents(bytes(200_000)), overwrite=overwrite)
    print("written")
except BundleError as error:
    print("refused:", error)
"""


def start(out: Path, limit: int = 0, mode: str = "new") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", RUN, str(out), str(limit), mode]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    return process.communicate("go\n", timeout=60)[0].strip()


def test_a_disk_that_takes_no_more_leaves_nothing(tmp_path: Path) -> None:
    answer = finish(start(tmp_path / "tiny", limit=100_000))
    assert answer == f"refused: Cannot write {tmp_path}/tiny: File too large; nothing was changed."
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_no_more_keeps_the_old_bundle(folder: Path) -> None:
    before = snapshot(folder)
    assert finish(start(folder, limit=100_000, mode="overwrite")).startswith("refused: Cannot write")
    assert snapshot(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("mode", ["new", "overwrite"])
def test_two_processes_at_once_leave_one_whole_bundle(tmp_path: Path, mode: str) -> None:
    out = tmp_path / "tiny"
    if mode == "overwrite":
        write(out)
    processes = [start(out, mode=mode) for _ in range(2)]
    for process in processes:  # both have loaded everything and wait for a line
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert "written" in answers
    assert all(answer == "written" or answer.startswith("refused: ") for answer in answers)
    if mode == "new":
        assert answers.count("written") == 1
    assert Bundle.open(out).read(GRAPH) == bytes(200_000)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_the_loser_of_a_race_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other writer's bundle appears after the last check, right before the renaming."""
    out = tmp_path / "tiny"
    rename, racing = Path.rename, True

    def rename_late(self: Path, target: Path) -> Path:
        nonlocal racing
        if racing:
            racing = False
            write(out, contents(b"winner"))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_late)
    with pytest.raises(BundleError, match="Cannot write"):
        write(out, contents(b"loser"))
    assert Bundle.open(out).read(GRAPH) == b"winner"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "tiny", tmp_path / ("x" * 300), tmp_path / ("x" * 250), Path("/proc/tiny")):
        with pytest.raises(BundleError, match="Cannot write"):
            write(out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes to folders without permission")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(BundleError, match="Cannot write"):
        write(tmp_path / "locked" / "tiny")
    assert not list((tmp_path / "locked").iterdir())


@pytest.mark.parametrize("out", ["", ".", "..", "new/.."])
def test_the_working_folder_and_those_above_are_no_target(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="name the folder"):
        write(Path(out))
    assert not list(tmp_path.iterdir())


def test_the_check_before_the_work_says_the_same(tmp_path: Path) -> None:
    check_target(tmp_path / "new", False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="not a bundle"):
        check_target(tmp_path / "file", True)
    with pytest.raises(BundleError, match="Cannot write"):
        check_target(tmp_path / ("x" * 300), False)

"""Whenever a writer is killed, the old folder or the new one is there for the next one who looks, and nothing else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from ghostzoo._utils.files import recover, replaced, restore
from ghostzoo.bundle.edit import check_target
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import BundleError
from ghostzoo.fetch.resolver import fetch
from ghostzoo.network.architecture import Architecture
from tests.fixtures.networks import random_arrays, write_weights
from tests.fixtures.small_bundles import contents, write

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
REPLACE = """
import os, signal, sys
from pathlib import Path
from tests.fixtures.small_bundles import contents, write
out, survived = Path(sys.argv[1]), int(sys.argv[2])
rename = Path.rename
def killed(self, target):
    global survived
    if survived == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    survived -= 1
    result = rename(self, target)
    if survived == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
Path.rename = killed
write(out, contents(b"new"), overwrite=True)
"""
HOLD = """
import sys
from pathlib import Path
from ghostzoo._utils.files import replaced
with replaced(Path(sys.argv[1])) as folder:
    folder.mkdir()
    (folder / "file").write_text("new")
    print("ready", flush=True)
    sys.stdin.readline()
"""


def kill_while_replacing(out: Path, survived: int) -> None:
    """Kill a process that replaces the bundle ``out`` after so many of its renames; 0: before the first."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", REPLACE, out, str(survived)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


def grow_old(folder: Path) -> None:
    """Let the scratch folders be a minute old: young ones may be of writers that have not locked them yet."""
    for scratch in folder.glob(".*.tmp"):
        os.utime(scratch, (time.time() - 60,) * 2)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("survived", "content"), [(0, b"graph" * 100), (1, b"graph" * 100), (2, b"new")])
def test_a_killed_writer_leaves_a_bundle_and_nothing_for_ever(tmp_path: Path, survived: int, content: bytes) -> None:
    out = write(tmp_path / "tiny").path
    kill_while_replacing(out, survived)
    assert len(names(tmp_path)) == (1 if survived == 1 else 2)  # it really was killed there
    assert Bundle.open(out).read("onnx/model.onnx") == content
    grow_old(tmp_path)
    check_target(tmp_path / "another", overwrite=False)
    assert names(tmp_path) == ["tiny"]


def test_between_the_renames_the_bundle_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, model in enumerate(("tiny", "./tiny", "sub/../tiny", Path("tiny"))):
        folder = tmp_path / str(number)
        (folder / "sub").mkdir(parents=True)
        monkeypatch.chdir(folder)
        write(Path("tiny"))
        kill_while_replacing(Path("tiny").absolute(), 1)
        assert not Path("tiny").exists()
        assert fetch(model).origin == "folder"
    monkeypatch.chdir(tmp_path)
    kill_while_replacing(tmp_path / "0" / "tiny", 1)
    monkeypatch.setenv("GHOSTZOO_MODELS", str(tmp_path / "0"))
    assert fetch("tiny").origin == "models folder"


def test_between_renames_the_old_bundle_is_kept(tmp_path: Path) -> None:
    out = write(tmp_path / "tiny").path
    kill_while_replacing(out, 1)
    with pytest.raises(BundleError, match="exists; choose another folder, or ask to overwrite"):
        write(out, contents(b"newer"))
    assert write(out, contents(b"newer"), overwrite=True).read("onnx/model.onnx") == b"newer"
    assert names(tmp_path) == ["tiny"]


def test_a_first_writer_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    kill_while_replacing(tmp_path / "tiny", 0)
    assert len(names(tmp_path)) == 1
    recover(tmp_path)
    assert len(names(tmp_path)) == 1  # it might be a living one's
    grow_old(tmp_path)
    with pytest.raises(BundleError, match="no such folder"):
        Bundle.open(tmp_path / "tiny")
    assert names(tmp_path) == []


def test_a_convert_that_is_killed_leaves_nothing_for_ever(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "w.pdparams", random_arrays(Architecture.of(0.25, 1000)))
    command = [sys.executable, "-m", "ghostzoo", "convert", "--name", "mine", "--weights", weights]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, "--out", tmp_path / "mine"], env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(names(tmp_path)) == 1:
        time.sleep(0.0005)
    process.kill()
    process.wait()
    if process.returncode == 0:
        pytest.skip("this machine was too slow to kill it in time")
    assert len(names(tmp_path)) == 2
    grow_old(tmp_path)
    done = subprocess.run([*command, "--out", tmp_path / "other"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [name for name in names(tmp_path) if name != "mine"] == ["other", "w.pdparams"]


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "ready\n"
        before = names(tmp_path)
        recover(tmp_path)
        restore(tmp_path / "out")
        assert names(tmp_path) == before
        assert len(before) == 1
        process.communicate("go\n", timeout=60)
    assert process.returncode == 0
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "new"


def test_writers_that_start_while_others_clear_away_all_succeed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ghostzoo._utils.files import recover, replaced\n"
        "for number in range(100):\n"
        "    recover(Path(sys.argv[1]))\n"
        "    with replaced(Path(sys.argv[1], f'{sys.argv[2]}-{number}')) as folder:\n"
        "        folder.mkdir()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(number)], env=environment) for number in range(3)]
    assert [process.wait(120) for process in processes] == [0] * 3
    assert len(names(tmp_path)) == 300
    assert not any(name.startswith(".") for name in names(tmp_path))


def test_what_only_looks_alike_stays(tmp_path: Path) -> None:
    alike = [".a-0123456789ab.tmp", ".a-0123456789a.tmp", ".a-0123456789abc.tmp", "a-0123456789ab.tmp"]
    for name in alike:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years")
    (tmp_path / ".b-0123456789ab.tmp").write_text("a file")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lock").write_text("")
    (tmp_path / ".c-0123456789ab.tmp").symlink_to("elsewhere")
    before = names(tmp_path)
    grow_old(tmp_path)
    recover(tmp_path)
    assert names(tmp_path) == before
    assert (tmp_path / ".a-0123456789ab.tmp" / "thesis.txt").exists()
    assert (tmp_path / "elsewhere" / "lock").exists()


def test_a_neighbour_with_a_longer_name_is_another_folder(tmp_path: Path) -> None:
    kill_while_replacing(write(tmp_path / "a-b").path, 1)
    restore(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "a-b").exists()
    recover(tmp_path)
    assert names(tmp_path) == ["a-b"]


def test_what_cannot_be_put_back_is_kept_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kill_while_replacing(write(tmp_path / "a").path, 1)

    def refuse(*_: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        recover(tmp_path)
    (scratch,) = tmp_path.iterdir()
    assert scratch.name.startswith(".a-")
    assert f"it is in {scratch / 'old'}" in caplog.text
    recover(tmp_path)
    assert names(tmp_path) == ["a"]


def test_where_nothing_can_be_locked_folders_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network drives: whoever writes there does so without the lock."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    for text in ("old", "new"):
        with replaced(tmp_path / "out") as folder:
            folder.mkdir()
            (folder / "file").write_text(text)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "new"


def test_an_error_while_writing_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with replaced(out) as folder:
        folder.mkdir()
    with pytest.raises(KeyboardInterrupt), replaced(out) as folder:
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out"]

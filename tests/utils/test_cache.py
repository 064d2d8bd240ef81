from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ghostzoo._utils.cache import cache_folder, cache_key, cached, read_cached, write_cached


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_variable_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == folder
    monkeypatch.delenv("GHOSTZOO_CACHE")
    assert cache_folder().name == "ghostzoo"


def test_what_was_made_is_not_made_again(folder: Path) -> None:
    assert cached("graphs/a", lambda: b"first") == b"first"
    assert cached("graphs/a", lambda: b"second") == b"first"
    assert cached("graphs/b", lambda: b"second") == b"second"
    assert [path.name for path in folder.rglob("*") if path.suffix == ".tmp"] == []


def test_what_fails_leaves_nothing() -> None:
    with pytest.raises(ZeroDivisionError):
        cached("graphs/a", lambda: bytes(1 // 0))
    assert read_cached("graphs/a") is None


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 100])
def test_a_damaged_file_is_made_anew(folder: Path, damage: bytes) -> None:
    cached("graphs/a", lambda: b"good")
    (folder / "graphs" / "a").write_bytes(damage)
    assert read_cached("graphs/a") is None
    assert cached("graphs/a", lambda: b"again") == b"again"
    assert read_cached("graphs/a") == b"again"


@pytest.mark.parametrize("name", ["../a", "graphs/../a", "graphs/..", "a", "/etc/passwd", "graphs/a/b", "graphs\\a"])
def test_names_stay_in_the_folder(name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        write_cached(name, b"x")


def test_a_folder_that_cannot_be_made_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "file" / "cache"))
    write_cached("graphs/a", b"x")
    assert cached("graphs/a", lambda: b"made") == b"made"
    assert read_cached("graphs/a") is None


def test_threads_make_it_once() -> None:
    made = []

    def make() -> bytes:
        made.append(1)
        return b"content"

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: cached("graphs/a", make), range(32)))
    assert set(results) == {b"content"}
    assert len(made) == 1


def test_processes_make_it_once(folder: Path, tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time, os\n"
        "from ghostzoo._utils.cache import cached\n"
        "def make():\n"
        "    pathlib.Path(sys.argv[1], str(os.getpid())).touch()\n"
        "    time.sleep(0.3)\n"
        "    return b'content'\n"
        "assert cached('graphs/a', make) == b'content'\n"
    )
    made = tmp_path / "made"
    made.mkdir()
    processes = [subprocess.Popen([sys.executable, "-c", script, str(made)], env=dict(os.environ)) for _ in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert len(list(made.iterdir())) == 1


def test_keys_tell_facts_apart() -> None:
    assert cache_key("a", 1) == cache_key("a", 1)
    assert len({cache_key("a", 1), cache_key("a", "1"), cache_key("a1"), cache_key("a", 2)}) == 4

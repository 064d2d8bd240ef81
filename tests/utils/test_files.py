"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ghostzoo._utils.files import write_atomically


def test_what_a_killed_writer_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    old, new, other = (
        tmp_path / f".{name}.tmp" for name in ("report.json-" + "a" * 12, "report.json-" + "b" * 12, "x")
    )
    for file in (old, new, other):
        file.write_bytes(b"half")
    long_ago = time.time() - 7200
    for file in (old, other):
        os.utime(file, (long_ago, long_ago))
    write_atomically(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert [file.exists() for file in (old, new, other)] == [False, True, True]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomically(path, b"new")
    assert list(tmp_path.iterdir()) == [path]

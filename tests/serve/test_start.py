"""How the server starts, for people and for programs; and what it refuses before it loads anything."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from ghostzoo.bundle.folder import Bundle
from tests.fixtures.serving import COMMAND

pytestmark = pytest.mark.slow


def at_a_terminal(*arguments: str) -> tuple[int, str]:
    """Run the server with a terminal as its stderr, ask it once, press Ctrl+C; return the status and what was seen."""
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, *COMMAND, *arguments], stderr=theirs)
    os.close(theirs)
    seen, asked = b"", False
    end = time.monotonic() + 120
    try:
        while process.poll() is None:
            assert time.monotonic() < end, seen
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    seen += os.read(ours, 65536)
                except OSError:  # nobody has the other end any more
                    break
            address = re.search(rb"http://[\d.]+:\d+", seen)
            if address is not None and not asked:
                asked = requests.get(address[0].decode() + "/a%1b[31mb", timeout=60).status_code == 404
                process.send_signal(signal.SIGINT)
        return process.wait(60), seen.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_person_is_greeted(tiny_bundle: Bundle) -> None:
    status, seen = at_a_terminal("--model", str(tiny_bundle.path))
    assert status == 130
    assert seen.splitlines()[-1] == "Interrupted."
    assert re.search(r"ghostzoo serves tiny at http://127\.0\.0\.1:\d+\s", seen)
    assert "Press Ctrl+C to stop" in seen
    assert r"GET /a\x1b[31mb: 404" in seen  # and the terminal is not told to write in red
    assert "{" not in seen
    assert len(seen.splitlines()) < 10


def test_a_program_gets_json_lines(tiny_bundle: Bundle) -> None:
    status, seen = at_a_terminal("--model", str(tiny_bundle.path), "--log", "json")
    assert status == 130
    messages = [json.loads(line)["message"] for line in seen.splitlines()]
    assert messages == ["ghostzoo serves", "request", "interrupted"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model", "tiny", "--model", "no/such/folder"], "no/such/folder"),
        (["--model", "tiny", "--engine", "onnxruntime", "--engine", "onnxruntim"], "onnxruntim"),
        (["--model", "tiny", "--model", "./tiny"], "both named tiny"),
        (["--model", "tiny", "--host", "300.1.1.1"], "Cannot listen on '300.1.1.1'"),
    ],
)
def test_all_is_checked_before_anything_is_loaded(
    tiny_bundle: Bundle, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "tiny").symlink_to(tiny_bundle.path)
    command = [sys.executable, "-X", "importtime", *COMMAND, "--offline", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    *imports, last = result.stderr.splitlines()
    assert result.returncode == 1
    assert last.startswith("Error: ")
    assert expected in last
    assert [line for line in imports if "onnxruntime" in line] == []

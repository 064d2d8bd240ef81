"""The documented lines that install PyTorch's CPU build: pip itself follows them, to an index on this machine."""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of builds without CUDA."""
VERSION = "2.13.0"


def documented(file: str, start: str) -> list[str]:
    """Return the words of the one line of a document's code blocks that begins with ``start``, without its comment."""
    blocks = re.findall(r"(?ms)^```\w*\n(.*?)^```$", (ROOT / file).read_text(encoding="utf-8"))
    [line] = [line for block in blocks for line in block.splitlines() if line.startswith(start)]
    return shlex.split(line, comments=True)


def write_wheel(folder: Path, version: str) -> None:
    """Write a wheel of that version, and the page of an index that lists it."""
    folder.mkdir(parents=True, exist_ok=True)
    name, metadata = f"torch-{version}-py3-none-any.whl", f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr(f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        archive.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{metadata}/RECORD", "")
    (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{name}">{name}</a>')


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[str]:
    """The address of two package indexes: ``whl/cpu`` has the CPU build, ``simple`` the usual one."""
    write_wheel(tmp_path / "whl" / "cpu" / "torch", f"{VERSION}+cpu")
    write_wheel(tmp_path / "simple" / "torch", VERSION)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def resolved(arguments: list[str], **variables: str) -> list[str]:
    """Return the versions that pip would install, with no other settings than these."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_PROXY": "*", **variables}
    command = [sys.executable, "-m", "pip", "install", *arguments, "--dry-run", "--ignore-installed", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-cache-dir", "--quiet", "--report", "-"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return [item["metadata"]["version"] for item in json.loads(done.stdout)["install"]]


@pytest.mark.slow
def test_the_line_for_users_installs_the_cpu_build(indexes: str) -> None:
    words = documented("docs/guides/train.md", "pip install torch")
    assert words == ["pip", "install", "torch", "--index-url", CPU_INDEX]
    assert resolved([indexes + urlsplit(word).path if word == CPU_INDEX else word for word in words[2:]]) == [
        "2.13.0+cpu"
    ]


@pytest.mark.slow
def test_the_line_for_the_tests_prefers_the_cpu_build(indexes: str) -> None:
    setting, *command = documented("CONTRIBUTING.md", "PIP_EXTRA_INDEX_URL")
    name, _, url = setting.partition("=")
    assert (name, url, command) == ("PIP_EXTRA_INDEX_URL", CPU_INDEX, ["make", "test-all"])
    settings = {"PIP_INDEX_URL": f"{indexes}/simple"}
    assert resolved(["torch==2.13.0"], **settings) == ["2.13.0"]
    assert resolved(["torch==2.13.0"], **settings, PIP_EXTRA_INDEX_URL=indexes + urlsplit(url).path) == ["2.13.0+cpu"]

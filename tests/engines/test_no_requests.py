"""No engine talks to anyone, and none writes anywhere but to ghostzoo's cache and the folder for temporary files.

Paddle alone makes two empty folders, ``~/.cache/paddle/dataset``, when it is imported; it has no switch for that.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines.base import Engine
from tests.fixtures.engines import require_engine

pytestmark = pytest.mark.slow

_PREDICT = """
import numpy, sys, ghostzoo
with ghostzoo.load(sys.argv[1], engine=sys.argv[2], offline=True) as clf:
    clf(numpy.zeros((80, 80, 3), numpy.uint8))
"""
_WATCH = """
import json, os, sys

log = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # not stdout, where libraries write too

def tell(*words):
    os.write(log, json.dumps(words).encode() + b"\\n")  # in one piece, whatever other threads tell

def watch(event, arguments):
    if event.startswith(("socket.", "urllib.", "http.")):
        tell("request", event, repr(arguments))
        raise PermissionError("the tests let nothing out")
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        tell("write", event, os.fsdecode(arguments[0]))
    if event == "os.mkdir":
        tell("write", event, os.fsdecode(arguments[0]))

sys.addaudithook(watch)
"""
_WRITES = re.compile(
    r'(?:open(?:at)?\((?:AT_FDCWD, )?"([^"]*)", [^)]*(?:O_WRONLY|O_RDWR|O_CREAT)|'
    r'(?:mkdir|creat|truncate)(?:at)?\((?:AT_FDCWD, )?"([^"]*)")'
)
_SYSTEM_CALLS = "socket,connect,sendto,sendmsg,sendmmsg,bind,open,openat,creat,truncate,mkdir,mkdirat"


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """A user's own: not those of a build server, where libraries keep silent, and with no switch thrown."""
    switches = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY", "GHOSTZOO_ENGINE", "HF_HUB_DISABLE_TELEMETRY")
    kept = {name: value for name, value in os.environ.items() if name not in switches}
    for folder in ("home", "cache", "temporary"):
        (tmp_path / folder).mkdir()
    return kept | {
        "HOME": str(tmp_path / "home"),
        "USERPROFILE": str(tmp_path / "home"),
        "LOCALAPPDATA": str(tmp_path / "home"),
        "GHOSTZOO_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "temporary"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def is_allowed(path: str, surroundings: dict[str, str], engine: str) -> bool:
    folders = (surroundings["GHOSTZOO_CACHE"], surroundings["TMPDIR"], "/dev", "/proc/self")
    if any(path == folder or path.startswith(folder + os.sep) for folder in folders):
        return True
    cache = Path(surroundings["HOME"], ".cache")
    made = (cache, cache / "paddle", cache / "paddle" / "dataset")
    return engine == "paddle" and Path(path) in made and Path(path).is_dir()


def watched(surroundings: dict[str, str], path: Path, engine: str) -> list[list[str]]:
    """What a process that predicts asked Python for: requests, and writes to where none belong."""
    log = Path(surroundings["TMPDIR"], "events")
    subprocess.run([sys.executable, "-c", _WATCH + _PREDICT, str(path), engine, str(log)], env=surroundings, check=True)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(event[0] == "write" for event in events)  # the cache: the watch is awake
    return [event for event in events if event[0] == "request" or not is_allowed(event[2], surroundings, engine)]


def traced(surroundings: dict[str, str], path: Path, engine: str, log: Path) -> list[str]:
    """What such a process asked the system for, which shows what native libraries do too."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed here; it shows what native libraries ask the system for")
    command = [strace, "-f", "-qq", "-e", f"trace={_SYSTEM_CALLS}", "-o", str(log)]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace processes here (in a container, --cap-add SYS_PTRACE allows it)")
    subprocess.run([*command, sys.executable, "-c", _PREDICT, str(path), engine], env=surroundings, check=True)
    lines = log.read_text(errors="replace").splitlines()
    writes = [(line, match) for line in lines if (match := _WRITES.search(line)) and "= -1" not in line]
    assert writes
    # Of sockets on this machine, the one by which the C library asks for a user's home folder is no request.
    found = [line for line in lines if re.search(r"\b(socket|connect|send\w+|bind)\(", line) and "AF_UNIX" not in line]
    return found + [line for line, match in writes if not is_allowed(match[1] or match[2], surroundings, engine)]


def test_engines_ask_for_nothing_outside(
    engine_type: type[Engine], engine_bundle: Bundle, surroundings: dict[str, str]
) -> None:
    assert watched(surroundings, engine_bundle.path, engine_type.name) == []


def test_native_libraries_ask_for_nothing_outside(
    engine_type: type[Engine], engine_bundle: Bundle, surroundings: dict[str, str], tmp_path: Path
) -> None:
    assert traced(surroundings, engine_bundle.path, engine_type.name, tmp_path / "trace") == []


def test_measuring_the_engines_asks_for_nothing(
    tiny_bundle: Bundle, surroundings: dict[str, str], tmp_path: Path
) -> None:
    assert watched(surroundings, tiny_bundle.path, "auto") == []
    shutil.rmtree(tmp_path / "cache")
    assert traced(surroundings, tiny_bundle.path, "auto", tmp_path / "trace") == []


def test_openvino_reports_where_the_user_opted_in(tiny_bundle: Bundle, surroundings: dict[str, str]) -> None:
    if find_spec("openvino_telemetry") is None:
        pytest.skip("openvino, or its package for usage reports, is not installed here")
    consent = Path(surroundings["HOME"], "Intel Corporation" if os.name == "nt" else "intel", "openvino_telemetry")
    consent.parent.mkdir()
    consent.write_text("1")
    found = watched(surroundings, tiny_bundle.path, "openvino")
    assert any(kind == "request" for kind, *_ in found)


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_onnxruntime_reports_where_the_user_opted_in(
    surroundings: dict[str, str], before: str | None, after: str
) -> None:
    more = {} if before is None else {"ORT_DISABLE_TELEMETRY": before}
    script = "import os, ghostzoo.engines.onnxruntime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    result = subprocess.run(
        [sys.executable, "-c", script], env=surroundings | more, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == after


def test_environment_is_left_as_it_was(surroundings: dict[str, str]) -> None:
    require_engine("openvino")
    script = "import os; before = os.environ.get('CI'); import ghostzoo.engines.openvino; "
    script += "assert os.environ.get('CI') == before, os.environ['CI']"
    for more in ({}, {"CI": "false"}):
        subprocess.run([sys.executable, "-c", script], env=surroundings | more, check=True)

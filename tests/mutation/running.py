"""Run tests against one fault, so that how busy the machine is neither kills a fault nor saves it.

What runs too long is told by the CPU time of each process, and what hangs by the CPU time that no process uses any
more. Tests that fail because they waited too long, or hang, are run once more: where others want the CPUs, a process
of low priority may get none for long.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from .mutants import Mutant

CPU_SECONDS = 60
"""Of each process, besides three times what the tests took when they were recorded."""
IDLE_SECONDS = 20
"""Besides three times the longest test: so long all processes may wait, for each other or for a deadline."""
IDLE_SHARE = 0.03
"""Of one CPU: what waits uses less, and what computes gets more, however busy the machine is."""
MAX_SECONDS = 900
MAX_BYTES = 8 << 30
_POLL_SECONDS = 0.05
_TICKS = os.sysconf("SC_CLK_TCK")


class Failed:
    """A plugin of pytest that writes down the first test that fails, and why, and begins no test after a while."""

    def __init__(self, out: Path, patience: float) -> None:
        self._out = out
        self._end = time.monotonic() + patience

    def pytest_runtest_logfinish(self) -> None:
        if time.monotonic() > self._end and not self._out.exists():
            pytest.exit("no test noticed the fault so far", returncode=0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self._out.exists():
            crash = getattr(report.longrepr, "reprcrash", None)
            why = (crash.message if crash else str(report.longrepr)).split("\n")[0][:200]
            self._out.write_text(json.dumps([report.nodeid, why]), encoding="utf-8")


def preload() -> None:
    """Import what most tests import, and nothing of the package: each fault's process is a fork, and begins with it."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # its thread would keep forks from ending
    for name in ("cv2", "huggingface_hub", "hypothesis", "numpy", "onnx", "onnxruntime", "PIL.Image", "requests"):
        importlib.import_module(name)


def surroundings(copy: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}


def try_one(mutant: Mutant, tests: Mapping[str, float], copy: Path, patience: float) -> tuple[str, list[str], float]:
    """Put a fault in, and run tests that take so many seconds without it.

    Args:
        patience: seconds after which no more tests are begun: then nobody has noticed the fault.

    Returns:
        ``killed``, ``timeout`` or ``survived``; the test that failed, and why; the seconds that it took.
    """
    file = copy / mutant.module
    source = file.read_bytes()
    assert source[mutant.start : mutant.end].decode() == mutant.was, f"{mutant} is of another version of the module"
    start = time.monotonic()
    try:
        file.write_bytes(mutant.apply(source))
        outcome, failed = _try(tests, copy, patience)
        if failed and "imeout" in failed[1] and failed[0] in tests:
            outcome, failed = _try({failed[0]: tests[failed[0]], **tests}, copy, patience)
        elif outcome == "timeout":
            outcome, failed = _try(tests, copy, patience)
    finally:
        file.write_bytes(source)
    return outcome, failed, time.monotonic() - start


def _try(tests: Mapping[str, float], copy: Path, patience: float) -> tuple[str, list[str]]:
    out = copy.parent / "failed.json"
    out.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        _run_tests(tests, copy, Failed(out, patience), int(CPU_SECONDS + 3 * sum(tests.values())))
    try:
        outcome = "survived" if _wait(child, IDLE_SECONDS + 3 * max(tests.values())) == 0 else "killed"
    except TimeoutError:
        outcome = "timeout"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    return outcome, json.loads(out.read_text(encoding="utf-8")) if out.exists() else []


def _run_tests(tests: Iterable[str], copy: Path, plugin: Failed, cpu_seconds: int) -> NoReturn:
    """Run tests of the copy in this process, which is a fork, and end it."""
    status = 3
    try:
        os.setpgrp()
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.dont_write_bytecode = True
        os.chdir(copy)
        os.environ.update(surroundings(copy))
        sys.path[0] = str(copy)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("ghostzoo", "tests")]:
            del sys.modules[name]
        with Path(os.devnull).open("r+b") as nothing:
            for stream in range(3):
                os.dup2(nothing.fileno(), stream)
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        status = int(pytest.main([*options, *tests], plugins=[plugin]))
    finally:
        os._exit(status)


def _processes(ancestor: int) -> dict[int, float]:
    """Return the CPU seconds of a process and of all that it, or one of these, has started and that run."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            values = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(values[1])
            seconds[int(path.parent.name)] = (int(values[11]) + int(values[12])) / _TICKS
    found, more = set[int](), {ancestor}
    while more := more - found:
        found |= more
        more = {process for process, parent in parents.items() if parent in found}
    return {process: seconds[process] for process in found if process in seconds}


def _wait(child: int, idle_seconds: float) -> int:
    """Return how a process ended.

    Raises:
        TimeoutError: it still runs, and waits for what does not come.
    """
    start = since = checked = time.monotonic()
    computed = 0.0
    while (now := time.monotonic()) < start + MAX_SECONDS:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_POLL_SECONDS)
        if now < checked + 1:
            continue
        checked, total = now, sum(_processes(child).values())
        if not 0 <= total - computed < IDLE_SHARE * (now - since):  # less: a process has ended
            since, computed = now, total
        elif now - since > idle_seconds:
            break
    for process in _processes(child):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError

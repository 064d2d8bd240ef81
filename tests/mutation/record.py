"""A plugin of pytest that records which lines each test runs, and how long it takes: ``-p tests.mutation.record``.

What a fixture of a module or of the session runs counts for each test that uses it, and so do the processes, such as
servers, that a test or a fixture starts.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import coverage
import pytest

RECORD_VARIABLE = "GHOSTZOO_MUTATION_RECORD"
"""Names the file that is written; beside it, with the suffix ``.rc``, are the settings for processes."""
CONTEXT_VARIABLE = "GHOSTZOO_MUTATION_CONTEXT"
"""Says to the processes what they run for."""
SHARED = "shared "
"""What the name of a fixture of several tests begins with."""

_seconds: dict[str, float] = {}
_failed: set[str] = set()
_fixtures: dict[str, list[str]] = {}
_shared: set[str] = set()


def pytest_configure() -> None:
    os.environ["COVERAGE_PROCESS_START"] = str(Path(os.environ[RECORD_VARIABLE]).with_suffix(".rc"))
    subprocess.Popen.kill = _end  # type: ignore[assignment, method-assign]


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process so that it can write what it ran."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    process.send_signal(9)


@contextmanager
def _running(name: str) -> Iterator[None]:
    running = coverage.Coverage.current()
    assert running is not None, "run it under coverage"
    before = os.environ.get(CONTEXT_VARIABLE, "")
    running.switch_context(name)
    os.environ[CONTEXT_VARIABLE] = name
    try:
        yield
    finally:
        os.environ[CONTEXT_VARIABLE] = before
        running.switch_context(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    _fixtures[item.nodeid] = list(getattr(item, "fixturenames", ()))
    with _running(item.nodeid):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
    if fixturedef.scope == "function":
        return (yield)
    name = f"{SHARED}{fixturedef.baseid}::{fixturedef.argname}"
    _shared.add(name)
    with _running(name):
        return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration
    if not report.passed:
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    passed = {name: seconds for name, seconds in _seconds.items() if name not in _failed}
    users = {}
    for fixture in _shared:
        place, _, argument = fixture.removeprefix(SHARED).rpartition("::")
        users[fixture] = [test for test in passed if test.startswith(place) and argument in _fixtures[test]]
    result = {"seconds": passed, "users": users, "failed": sorted(_failed)}
    Path(os.environ[RECORD_VARIABLE]).write_text(json.dumps(result), encoding="utf-8")

"""Put faults into the package, one at a time, and run the tests that reach them.

    python -m tests.mutation --count 300 --seed 1 --out mutation.json
    python -m tests.mutation --again mutation.json

First the tests run once, each recorded with the lines that it reaches. Then a sample of all faults is tried: for each,
in a copy of the checkout, the tests that reach its line, the quickest of its own folder first, until one fails.
``--again`` tries those once more that no test noticed; tests that were added since are known to a new recording alone.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

import coverage
import pytest

from .mutants import Mutant, mutants_of
from .record import CONTEXT_VARIABLE, RECORD_VARIABLE

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 60
"""Besides three times what the tests took when they were recorded."""
MAX_SECONDS = 8
MAX_TESTS = 150
"""Of the tests that reach a line, those are run that are no more and take no longer together: the quickest."""
RECORDED = ("tests/*/", "tests/test_*.py")
NOT_RECORDED = ("exporters", "fixtures", "hub", "mutation", "training", "web")
"""Tests of other folders than the package's, or of its web page, which is no Python."""
NEEDS_MORE = {
    "an NVIDIA GPU": ("ghostzoo/engines/cuda.py", "ghostzoo/engines/tensorrt"),
    "PaddlePaddle": ("ghostzoo/engines/paddle.py",),
}
"""Modules whose tests are skipped in the development environment: what they need, and their names' beginnings."""


def tests_of(module: str) -> list[str]:
    """The folder that mirrors the module's, or the files that are named after it."""
    name, *below = Path(module).relative_to("ghostzoo").parts
    if below:
        return [f"tests/{name.lstrip('_')}/", f"tests/test_{name.lstrip('_')}.py"]
    return [f"tests/test_{Path(name).stem}", "tests/test_classifier.py", "tests/test_cli.py", "tests/test_life.py"]


def copy_checkout(to: Path) -> Path:
    """Copy what git knows, and what it does not ignore; the photographs beside the checkout are linked to."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    copy = to / "checkout"
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    if (ROOT.parent / "shared").exists():
        (to / "shared").symlink_to(ROOT.parent / "shared")
    return copy


def surroundings(copy: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}


def record(copy: Path, to: Path, names: Sequence[str]) -> None:
    """Run the tests once, each part on its own, and keep which lines each reaches and how long it takes."""
    to.mkdir(parents=True, exist_ok=True)
    for name in names:
        stem = name.strip("/").replace("/", "-")
        if (to / f"{stem}.json").exists():
            continue
        variables = surroundings(copy) | {RECORD_VARIABLE: str(to / f"{stem}.json")}
        settings = [f"include = {copy}/ghostzoo/*", f"data_file = {to / stem}.coverage", "parallel = true"]
        own = to / f"{stem}.own.rc"
        own.write_text("\n".join(["[run]", *settings, ""]), encoding="utf-8")
        settings += [f"context = ${{{CONTEXT_VARIABLE}}}", "patch = _exit", "sigterm = true"]
        (to / f"{stem}.rc").write_text("\n".join(["[run]", *settings, ""]), encoding="utf-8")
        command = [sys.executable, "-m", "coverage", "run", f"--rcfile={own}"]
        command += ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
        subprocess.run([*command, "-p", "tests.mutation.record", name], cwd=copy, env=variables)


def reached(to: Path, copy: Path) -> tuple[dict[tuple[str, int], set[str]], dict[str, float]]:
    """Return the tests that reach each line of each module, and the seconds of each test that passes.

    An empty name stands for the import of the module.
    """
    seconds: dict[str, float] = {}
    users: dict[str, list[str]] = {}
    for path in to.glob("*.json"):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        seconds |= recorded["seconds"]
        for fixture, tests in recorded["users"].items():
            users.setdefault(fixture, []).extend(tests)
    found: dict[tuple[str, int], set[str]] = {}
    for path in to.glob("*.coverage.*"):
        data = coverage.CoverageData(str(path))
        try:
            data.read()
        except coverage.exceptions.DataError:  # of a process that was killed while it wrote
            continue
        for file in data.measured_files():
            module = Path(file).relative_to(copy).as_posix()
            for line, names in data.contexts_by_lineno(file).items():
                tests = found.setdefault((module, line), set())
                for name in names:
                    tests.update(users.get(name, [name] if not name or name in seconds else []))
    return found, seconds


def choose(mutant: Mutant, lines: dict[tuple[str, int], set[str]], seconds: dict[str, float]) -> list[str]:
    """The tests that reach the fault, or the module where a line runs at its import alone; the module's own first.

    After them come the others of their files, which may reach it in processes that they start.
    """
    own = tuple(tests_of(mutant.module))
    reaching = lines.get((mutant.module, mutant.line), set())
    if not reaching - {""} or "" in reaching:
        reaching = {name for (module, _), names in lines.items() if module == mutant.module for name in names}
    chosen: list[str] = []
    left = float(MAX_SECONDS)
    files = {name.partition("::")[0] for name in reaching if name}
    beside = reaching - {""} | {name for name in seconds if name.partition("::")[0] in files and name.startswith(own)}
    stem = Path(mutant.module).stem
    for name in sorted(
        beside, key=lambda name: (name not in reaching, stem not in name, not name.startswith(own), seconds[name])
    ):
        if len(chosen) < MAX_TESTS and (seconds[name] <= left or not chosen):
            chosen.append(name)
            left -= seconds[name]
    return chosen


def preload() -> None:
    """Import what most tests import, and nothing of the package: each fault's process is a fork, and begins with it."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # its thread would keep forks from ending
    for name in ("cv2", "huggingface_hub", "hypothesis", "numpy", "onnx", "onnxruntime", "PIL.Image", "requests"):
        importlib.import_module(name)


def run_tests(tests: Sequence[str], copy: Path) -> NoReturn:
    """Run tests of the copy in this process, which is a fork, and end it."""
    status = 3
    try:
        os.setsid()
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
        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(status)


def wait(child: int, end: float) -> int:
    """Return how a process ended.

    Raises:
        TimeoutError: it still runs; it is ended then.
    """
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError


def try_one(mutant: Mutant, tests: Sequence[str], copy: Path, timeout: float) -> tuple[str, float]:
    """Return whether a test noticed: ``killed``, ``timeout`` or ``survived``, and the seconds that it took."""
    file = copy / mutant.module
    source = file.read_bytes()
    assert source[mutant.start : mutant.end].decode() == mutant.was, f"{mutant} is of another version of the module"
    file.write_bytes(mutant.apply(source))
    start = time.monotonic()
    child = os.fork()
    if not child:
        run_tests(tests, copy)
    try:
        outcome = "survived" if wait(child, start + timeout) == 0 else "killed"
    except TimeoutError:
        outcome = "timeout"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        file.write_bytes(source)
    return outcome, time.monotonic() - start


def sample(copy: Path, count: int, seed: int, left_out: Iterable[str]) -> list[Mutant]:
    """Choose ``count`` of all faults: for the same seed the same ones, but for those in lines that have changed."""
    modules = sorted(path.relative_to(copy).as_posix() for path in copy.glob("ghostzoo/**/*.py"))
    prefixes = (*left_out, *(prefix for several in NEEDS_MORE.values() for prefix in several))
    chosen = [name for name in modules if not name.startswith(prefixes)]
    faults: list[tuple[bytes, Mutant]] = []
    for name in chosen:
        source = (copy / name).read_bytes()
        lines = source.decode().splitlines()
        seen: Counter[str] = Counter()
        for mutant in mutants_of(name, source):
            text = f"{seed} {name} {lines[mutant.line - 1].strip()} {mutant.was} {mutant.text}"
            seen[text] += 1
            faults.append((hashlib.sha256(f"{text} {seen[text]}".encode()).digest(), mutant))
    return [mutant for _, mutant in heapq.nsmallest(count, faults, key=itemgetter(0))]


def find_again(row: dict[str, Any], copy: Path) -> list[Mutant]:
    """Find a fault of an earlier run in today's module: the nearest of several, none where its line is gone."""
    path = copy / row["module"]
    source = path.read_bytes() if path.exists() else b""
    lines = source.decode().splitlines()
    fits = [
        mutant
        for mutant in mutants_of(row["module"], source)
        if (mutant.was, mutant.text, lines[mutant.line - 1].strip()) == (row["was"], row["text"], row["source"])
    ]
    return sorted(fits, key=lambda mutant: abs(mutant.line - row["line"]))[:1]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("mutation.json"))
    parser.add_argument("--again", type=Path, help="a result whose survivors are tried once more")
    parser.add_argument("--leave-out", action="append", default=[], help="a folder or module, such as ghostzoo/serve")
    parser.add_argument("--scratch", type=Path, help="where copy and recordings are kept, to go on from")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # it, too, takes the fault out again
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="ghostzoo-mutation-"))
    scratch.mkdir(parents=True, exist_ok=True)
    copy = scratch / "checkout"
    if not copy.exists():
        copy_checkout(scratch)
    if options.again:
        rows = json.loads(options.again.read_text(encoding="utf-8"))["mutants"]
        mutants = [found for row in rows if row["outcome"] == "survived" for found in find_again(row, copy)]
    else:
        mutants = sample(copy, options.count, options.seed, options.leave_out)
    every = sorted(path.relative_to(copy).as_posix() for pattern in RECORDED for path in copy.glob(pattern))
    left_out = {*NOT_RECORDED, *(Path(name).name for name in options.leave_out)}
    record(copy, scratch / "recordings", [name for name in every if Path(name).name not in left_out])
    lines, seconds = reached(scratch / "recordings", copy)
    preload()
    results: list[dict[str, Any]] = []
    if options.scratch and options.out.exists() and not options.again:  # go on from there
        results = json.loads(options.out.read_text(encoding="utf-8"))["mutants"][: len(mutants)]
    for number, mutant in enumerate(mutants[len(results) :], len(results) + 1):
        tests = choose(mutant, lines, seconds)
        timeout = TIMEOUT_SECONDS + 3 * sum(seconds[name] for name in tests)
        outcome, took = try_one(mutant, tests, copy, timeout) if tests else ("survived", 0.0)
        source = (copy / mutant.module).read_text(encoding="utf-8").splitlines()[mutant.line - 1].strip()
        of_try = {"source": source, "outcome": outcome, "tests": len(tests), "seconds": round(took, 1)}
        results.append(asdict(mutant) | of_try)
        print(f"{number}/{len(mutants)} {outcome} ({len(tests)} tests, {took:.0f} s) {mutant}", flush=True)
        counts = Counter(row["outcome"] for row in results)
        report = {"seed": options.seed, "counts": counts, "mutants": results}
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    noticed = counts["killed"] + counts["timeout"]
    print(f"{noticed} of {len(results)} noticed ({100 * noticed / max(1, len(results)):.0f} %): {dict(counts)}")


if __name__ == "__main__":
    main()

"""Which tests reach which lines of the package: recorded once, and used for as long as the lines are there."""

from __future__ import annotations

import ast
import difflib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import coverage

from .mutants import Mutant
from .record import CONTEXT_VARIABLE, RECORD_VARIABLE
from .running import surroundings

MAX_TESTS = 150
"""Of the tests that reach a line, so many of the quickest are run, as long as they take no longer than is told."""


def tests_of(module: str) -> list[str]:
    """The folder that mirrors the module's, or the files that are named after it."""
    name, *below = Path(module).relative_to("ghostzoo").parts
    if below:
        return [f"tests/{name.lstrip('_')}/", f"tests/test_{name.lstrip('_')}.py"]
    return [f"tests/test_{Path(name).stem}", "tests/test_classifier.py", "tests/test_cli.py", "tests/test_life.py"]


def record(copy: Path, to: Path, names: Sequence[str]) -> None:
    """Run the tests once, each part on its own, and keep which lines each reaches and how long it takes.

    Beside it goes what the modules said, so that the lines are found again in later versions of them.
    """
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
        command += ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        subprocess.run([*command, "-p", "tests.mutation.record", name], cwd=copy, env=variables)
        sources = {
            path.relative_to(copy).as_posix(): path.read_text(encoding="utf-8").splitlines()
            for path in copy.glob("ghostzoo/**/*.py")
        }
        (to / f"{stem}.sources").write_text(json.dumps(sources), encoding="utf-8")


class Reached:
    """The tests that reach each line of each module, and the seconds of each test that passes.

    An empty name stands for the import of the module.
    """

    def __init__(self, to: Path, copy: Path) -> None:
        self._copy = copy
        self.seconds: dict[str, float] = {}
        self._lines: dict[tuple[str, int], set[str]] = {}
        for path in sorted(to.glob("*.json"), key=lambda path: path.stat().st_mtime):
            self._add(path)

    def _add(self, path: Path) -> None:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        sources = json.loads(path.with_suffix(".sources").read_text(encoding="utf-8"))
        self.seconds |= recorded["seconds"]
        for part in path.parent.glob(f"{path.stem}.coverage.*"):
            data = coverage.CoverageData(str(part))
            try:
                data.read()
            except coverage.exceptions.DataError:  # of a process that was killed while it wrote
                continue
            for file in data.measured_files():
                module = file.rpartition("/checkout/")[2]
                today = self._today(module, sources.get(module, []))
                for line, names in data.contexts_by_lineno(file).items():
                    tests = self._lines.setdefault((module, today.get(line, 0)), set())
                    for name in names:
                        known = [name] if not name or name in self.seconds else []
                        tests.update(recorded["users"].get(name, known))

    def _today(self, module: str, then: list[str]) -> dict[int, int]:
        """Return the numbers of a module's lines: when it was recorded, and now."""
        path = self._copy / module
        now = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        blocks = difflib.SequenceMatcher(None, then, now, autojunk=False).get_matching_blocks()
        return {a + step + 1: b + step + 1 for a, b, size in blocks for step in range(size)}

    def choose(self, mutant: Mutant, left: float) -> dict[str, float]:
        """The tests that reach the fault, or the module where a line runs at its import; the module's own first.

        After them come the others of their files, which may reach it in processes that they start.

        Args:
            left: seconds that they may take together.
        """
        own = tuple(tests_of(mutant.module))
        reaching = self._lines.get((mutant.module, mutant.line), set())
        if not reaching - {""} or not _is_in_function(self._copy / mutant.module, mutant.line):
            reaching = {name for (module, _), names in self._lines.items() if module == mutant.module for name in names}
            reaching |= {name for name in self.seconds if name.startswith(own)}
        files = {name.partition("::")[0] for name in reaching if name}
        beside = {name for name in self.seconds if name.partition("::")[0] in files and name.startswith(own)}
        stem = Path(mutant.module).stem
        chosen: dict[str, float] = {}
        for name in sorted(
            (reaching | beside) - {""},
            key=lambda name: (name not in reaching, not name.startswith(own), stem not in name, self.seconds[name]),
        ):
            if len(chosen) < MAX_TESTS and (self.seconds[name] <= left or not chosen):
                chosen[name] = self.seconds[name]
                left -= chosen[name]
        return chosen


def _is_in_function(path: Path, line: int) -> bool:
    """Whether a line runs when a function is called, and not once, for whichever test imports the module first."""
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body[0].lineno <= line <= (node.end_lineno or line)
        for node in ast.walk(ast.parse(path.read_bytes()))
    )

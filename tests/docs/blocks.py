"""The blocks of code in a page of Markdown, and how each kind is run.

A comment ``<!-- not run: REASON -->`` before a block keeps it from being run; its commands must exist all the same.
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^(?:<!-- not run: ([^\n]+) -->\n)?```([a-z]*)\n(.*?)^```$", re.M | re.S)
_GROUPS = {"ghostzoo": "ghostzoo.cli", "python -m exporters": "exporters.cli", "python -m hub": "hub.cli"}
PROGRAMS = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "COLUMNS": "80",
}


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    code: str
    line: int
    not_run: str | None
    """Why it is not run."""


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(found[2], found[3], text.count("\n", 0, found.start(3)), found[1]) for found in _BLOCK.finditer(text)]


def commands_of(block: Block) -> Iterator[list[str]]:
    """Yield the words of each of our commands in a block of the shell."""
    lines = block.code.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in lines if block.language in ("console", "sh", "") else []:
        words = line.split(" #")[0].strip()
        for prefix in _GROUPS:
            if found := re.match(rf"(?:\S*/)?{prefix} (.*)", words):
                yield [prefix, *shlex.split(re.split(r" [|>] ?", found[1])[0])]


def check_command(words: list[str]) -> None:
    """Parse a command as the program does, without running it."""
    prefix, *arguments = words
    group: click.Command = import_module(_GROUPS[prefix]).main
    context = click.Context(group, info_name=prefix)
    while isinstance(group, click.Group):
        name = arguments.pop(0)
        command = group.get_command(context, name)
        assert command is not None, f"{prefix} has no command {name}"
        group, context = command, click.Context(command, parent=context, info_name=name)
    options = {name for parameter in group.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in arguments:
        if word.startswith("--"):
            assert word.split("=")[0] in options | {"--help"}, f"{prefix} {group.name} has no option {word}"


def run_block(block: Block, folder: Path, names: dict[str, Any], servers: contextlib.ExitStack) -> None:
    """Run a block in ``folder``; ``names`` are the variables of its page, ``servers`` ends what runs on."""
    if block.language == "python":
        exec(compile(block.code, f"line {block.line}", "exec"), names)  # noqa: S102
    elif block.language == "pycon":
        test = doctest.DocTestParser().get_doctest(block.code, names, f"line {block.line}", None, block.line)
        runner = doctest.DocTestRunner(verbose=False)
        told: list[str] = []
        runner.run(test, out=told.append, clear_globs=False)
        assert not runner.failures, "".join(told)
        names.update(test.globs)
    elif block.language == "console":
        for command, expected in re.findall(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n?)*)", block.code, re.M):
            done = _shell(command, folder)
            # By words: on a terminal, which the pages show, long lines are wrapped.
            assert done.stdout.split() == expected.split(), f"{command}\n{done.stdout}"
    elif block.language == "sh":
        for line in block.code.replace("\\\n", " ").splitlines():
            if line.startswith("ghostzoo serve"):
                servers.enter_context(_server(line, folder))
            elif line.strip():
                done = _shell(line, folder)
                assert done.returncode == 0, f"{line}\n{done.stdout}"


def _shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],  # noqa: S607
        cwd=folder,
        env=os.environ | PROGRAMS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


@contextlib.contextmanager
def _server(command: str, folder: Path) -> Iterator[None]:
    log = folder / "server.log"
    with (
        log.open("w") as out,
        subprocess.Popen(
            shlex.split(command), cwd=folder, env=os.environ | PROGRAMS, stdout=out, stderr=out
        ) as process,
    ):
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                with contextlib.suppress(OSError), urllib.request.urlopen("http://127.0.0.1:8000/readyz", timeout=5):
                    break
                time.sleep(0.1)
            else:
                raise AssertionError(log.read_text())
            yield
        finally:
            process.terminate()

"""Runs of ``python -m exporters train``, small enough for tests: in this process, or in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from click import Context
from click.testing import CliRunner

from exporters.cli import main
from exporters.torch_network import GhostNet
from exporters.training.data import DataSources, open_data
from exporters.training.distributed import Process
from exporters.training.pretrained import StartingPoint, initial_network
from exporters.training.recipe import Recipe
from exporters.training.reporting import Reporter
from exporters.training.trainer import Surroundings, Trainer

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "examples" / "GhostNet_x0_5_cifar10.pdparams"
SMALL = (
    "--width=0.1",
    "--image-size=32",
    "--batch-size=8",
    "--learning-rate=0.02",
    "--crop-scale=0.5",
    "--threads=1",
)
EVERYTHING = (
    "--val-split=0.2",
    "--epochs=3",
    "--grow=40:1",
    "--ema=0.9",
    "--mixup=0.2",
    "--cutmix=1",
    "--rand-augment=2:9",
    "--clip-gradients=5",
    "--nesterov",
    "--seed=3",
)
"""Options that draw random numbers or keep a state of their own: all that a resumed run must take up again."""


@dataclass(frozen=True)
class Run:
    """How a command ended, and what it printed."""

    code: int
    stdout: str
    stderr: str

    def check(self) -> Run:
        """Fail the test unless the command succeeded."""
        assert self.code == 0, self.stderr
        return self

    def error(self) -> str:
        """Return the one line that a failed command printed."""
        assert self.code == 1, self.stderr
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("Error: ")
        return lines[0]


def options(*arguments: Any) -> list[str]:
    """Return the words of a small run with ``arguments``: of an option that has one value, the last one counts."""
    words = [*SMALL, *map(str, arguments)]
    if any(word.startswith("--model=") for word in words):
        words = [word for word in words if not word.startswith("--width=")]
    starts = [place for place, word in enumerate(words) if word.startswith("--")]
    given = [words[start:end] for start, end in pairwise([*starts, len(words)])]
    command = main.get_command(Context(main), "train")
    assert command is not None
    repeatable = {name for item in command.params if getattr(item, "multiple", False) for name in item.opts}
    names = [option[0].partition("=")[0] for option in given]
    kept = [
        option
        for place, (name, option) in enumerate(zip(names, given, strict=True))
        if name in repeatable or name not in names[place + 1 :]
    ]
    return [word for option in kept for word in option]


def train(*arguments: Any) -> Run:
    """Run the command in this process."""
    result = CliRunner().invoke(main, ["train", *options(*arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Run(result.exit_code, result.stdout, result.stderr)


def start(*arguments: Any, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    command = [sys.executable, *launcher, "-m", "exporters", "train", *options(*arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait(process: subprocess.Popen[str]) -> Run:
    stdout, stderr = process.communicate(timeout=300)
    return Run(process.returncode, stdout, stderr)


def recipe(**choices: Any) -> Recipe:
    """A recipe as small as ``SMALL``."""
    small = {
        "width": 0.1,
        "image_size": 32,
        "resize_short": 32,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 0.02,
        "warmup_epochs": 0.2,
    }
    return Recipe(**{**small, **choices})


def make_trainer(chosen: Recipe, data: Path, out: Path, *, network: GhostNet | None = None, **sources: Any) -> Trainer:
    """Everything of a run but the command and the results."""
    opened = open_data(
        DataSources(data, **sources), out, seed=chosen.seed, cache_bytes=2**24, workers=1, process=Process(), quiet=True
    )
    start = StartingPoint(network or initial_network(chosen, len(opened.training.classes), None))
    return Trainer(chosen, start, opened, Surroundings(out, Reporter(out, chosen.epochs, quiet=True)))

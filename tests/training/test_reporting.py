from __future__ import annotations

import io
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from exporters.training.reporting import Reporter, conclude, describe_explosion, find_trouble

ROW = {"epoch": 1, "image_size": 32, "learning_rate": 0.1, "train_loss": 1.5, "train_accuracy": 0.25}


def run_reporter(out: Path, *, terminal: bool, quiet: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=150, highlight=False, markup=False)
    reporter = Reporter(out, 2, quiet=quiet, console=console)
    reporter.start_epoch(0, 20, 0)
    reporter.step(10, 1.2345, 0.5, 321.0)
    reporter.end_epoch([{**ROW, "images_per_second": 300.0}])
    reporter.start_epoch(1, 20, 0)
    reporter.close()
    return stream.getvalue()


def test_terminal_shows_a_progress_bar_with_metrics(tmp_path: Path) -> None:
    shown = run_reporter(tmp_path, terminal=True)
    for part in ("epoch 1/2", "epoch 2/2", "20/40", "loss 1.2345  accuracy 0.5000  321 images/s"):
        assert part in shown
    assert re.search(r"321 images/s.*0:\d\d:\d\d", shown)


def test_without_a_terminal_there_is_one_line_per_epoch(tmp_path: Path) -> None:
    shown = run_reporter(tmp_path, terminal=False)
    assert shown == "epoch 1/2  loss 1.500  accuracy 0.250\n"


def test_quiet_is_silent_and_still_writes(tmp_path: Path) -> None:
    assert run_reporter(tmp_path, terminal=True, quiet=True) == ""
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1] == "1,32,0.1,1.5,0.25,,,300.0"


def row(epoch: int, accuracy: float, loss: float = 0.5) -> dict[str, float]:
    return {"epoch": epoch, "image_size": 32, "validation_accuracy": accuracy, "validation_loss": loss}


def test_trouble_is_told_by_what_the_start_had() -> None:
    def kinds(*history: dict[str, float], kept_head: bool | None = True) -> list[str]:
        return [kind for kind, _ in find_trouble(history, 10, kept_head=kept_head)]

    assert kinds(row(0, 0.9), row(1, 0.9)) == []
    assert kinds(row(0, 0.9), row(1, 0.89)) == ["fallen"]
    assert kinds(row(0, 0.9), row(1, 0.5, 1760.0)) == ["exploded", "fallen far"]
    assert kinds(row(0, 0.2), row(1, 0.1), kept_head=False) == []
    assert kinds(row(0, 0.2), row(1, 0.1, 99.0), kept_head=False) == ["exploded"]
    assert kinds(row(0, 0.9), row(1, 0.5), kept_head=None) == []
    assert kinds(row(1, 0.9), row(2, 0.5)) == []  # the start was not measured


def test_a_guess_is_no_explosion() -> None:
    assert describe_explosion(math.log(1000), 1000) is None
    assert describe_explosion(2.9, 2) is None
    assert "it is 30, where a guess has 6.91" in str(describe_explosion(30.0, 1000))


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (0.95, "Training the backbone helped: 0.95 against 0.7"),
        (0.72, "did not clearly beat a frozen one: 0.72 against"),
    ],
)
def test_the_end_compares_with_the_frozen_backbone(after: float, said: str) -> None:
    history = [row(0, 0.1), row(1, 0.7), row(2, after), row(3, after - 0.01)]
    lines = list(conclude(history, 2, 1, 100))
    assert lines[0].startswith("Epoch 2 was the best (validation accuracy ")
    assert said in lines[1]
    assert next(conclude([row(0, 0.9), row(1, 0.8)], 0, 1, 100)).startswith("No epoch was better than the initial")

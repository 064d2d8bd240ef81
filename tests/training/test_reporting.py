from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from exporters.training.reporting import Reporter

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

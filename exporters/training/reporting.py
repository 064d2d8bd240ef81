"""How a run reports: progress on stderr, ``metrics.csv``, ``curves.png``, TensorBoard, and the model card's section.

Imports no PyTorch.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ghostzoo._utils.files import write_atomically

COLUMNS = (
    "epoch",
    "image_size",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "images_per_second",
)
RUN_FILE = "run.json"
WEIGHTS_FILE = "weights.pdparams"
BUNDLE_FOLDER = "bundle"
METRICS_FILE = "metrics.csv"
CURVES_FILE = "curves.png"
TENSORBOARD_FOLDER = "tensorboard"

History = Sequence[Mapping[str, float]]
"""One row per epoch, with the names of ``COLUMNS``."""


class Reporter:
    """Reports one run; in distributed training only the main process does."""

    def __init__(
        self, out: Path, epochs: int, *, quiet: bool = False, writes: bool = True, console: Console | None = None
    ) -> None:
        self._out, self._epochs, self._quiet, self._writes = out, epochs, quiet, writes
        self._console = console or Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._tensorboard: Any = None

    def log(self, text: str) -> None:
        """Print a line."""
        if not self._quiet:
            self._console.print(text)

    def start_epoch(self, epoch: int, steps: int, done: int) -> None:
        """Show the position of the run: epoch (from 0), steps per epoch, and steps of this epoch that are done."""
        if self._quiet or not self._console.is_terminal:
            return
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task("", total=steps * self._epochs, figures="")
            self._progress.start()
        self._first_step = steps * epoch
        self._progress.update(
            self._task, description=f"epoch {epoch + 1}/{self._epochs}", completed=self._first_step + done
        )

    def step(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """Show the running means of the epoch after ``done`` of its steps."""
        if self._progress is not None:
            figures = f"loss {loss:.4f}  accuracy {accuracy:.4f}  {images_per_second:.0f} images/s"
            self._progress.update(self._task, completed=self._first_step + done, figures=figures)

    def end_epoch(self, history: History) -> None:
        """Write the metrics of all epochs so far, and print those of the last one."""
        row = history[-1]
        self.log(
            f"epoch {row['epoch']}/{self._epochs}  "
            + "  ".join(f"{name.replace('_', ' ')} {row[name]:.4g}" for name in COLUMNS[1:] if name in row)
        )
        if self._writes:
            write_atomically(self._out / METRICS_FILE, _csv(history))
            self._log_to_tensorboard(row)

    def finish(self, history: History) -> None:
        """Plot the curves; rewrite the metrics, in case the run was killed between a checkpoint and its row."""
        if not self._writes:
            return
        write_atomically(self._out / METRICS_FILE, _csv(history))
        try:
            write_atomically(self._out / CURVES_FILE, _curves(history))
        except ImportError as error:
            self.log(f"{CURVES_FILE} was not drawn ({error}); 'pip install matplotlib', and --resume draws it.")

    def close(self) -> None:
        """Release the terminal."""
        if self._progress is not None:
            self._progress.stop()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _log_to_tensorboard(self, row: Mapping[str, float]) -> None:
        if find_spec("tensorboard") is None:
            return
        if self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter

            # A resumed run writes to the same folder and replaces older values from this epoch on.
            self._tensorboard = SummaryWriter(str(self._out / TENSORBOARD_FOLDER), purge_step=int(row["epoch"]))
        for name in COLUMNS[1:]:
            if name in row:
                self._tensorboard.add_scalar(name, row[name], int(row["epoch"]))
        self._tensorboard.flush()


def _csv(history: History) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def _curves(history: History) -> bytes:
    """Plot loss and accuracy by epoch as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in history]
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part in ("train", "validation"):
            values = [row.get(f"{part}_{quantity}") for row in history]
            if any(value is not None for value in values):
                axes.plot(epochs, values, label=part)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(quantity)
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def training_section(*runs: tuple[Mapping[str, Any], str]) -> str:
    """Return the model card's section on how the weights were trained, as Markdown.

    Args:
        runs: recipe (from ``Recipe.to_dict``) and command line of each run, which started from the weights of the
            previous one.
    """
    sections = [_run_section(recipe, command) for recipe, command in runs]
    return "\n\n".join(
        ["## Training", *(["In several runs, one after the other."] if len(runs) > 1 else []), *sections]
    )


def _run_section(recipe: Mapping[str, Any], command: str) -> str:
    return f"""```sh
{command}
```

In full, with seed {recipe["seed"]}:

```json
{json.dumps(recipe, indent=2)}
```"""

"""How a run reports: progress on stderr, ``metrics.csv``, ``curves.png``, TensorBoard, and the model card's section.

Imports no PyTorch.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
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
_SHOWN = {
    "train_loss": "loss",
    "train_accuracy": "accuracy",
    "validation_loss": "validation loss",
    "validation_accuracy": "accuracy",
}
"""The metrics in the log line of an epoch, and their names there."""
RUN_FILE = "run.json"
WEIGHTS_FILE = "weights.pdparams"
LAST_FILE = "last.pdparams"
"""Of timm's families the two are safetensors files."""
_WEIGHTS, _LAST = (name.partition(".")[0] for name in (WEIGHTS_FILE, LAST_FILE))
BUNDLE_FOLDER = "bundle"
METRICS_FILE = "metrics.csv"
CURVES_FILE = "curves.png"
TENSORBOARD_FOLDER = "tensorboard"

History = Sequence[Mapping[str, float]]
"""One row per epoch, with the names of ``COLUMNS``."""


EXPLODED, FALLEN, FALLEN_FAR = "exploded", "fallen", "fallen far"
"""Kinds of trouble."""
_FAR = 0.05
_EXPLODED_LOSS = 3.0
"""So many times the loss of a guess."""


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

    def warn(self, text: str) -> None:
        """Print a warning, even with ``quiet``."""
        if self._writes:
            self._console.print(f"Warning: {text}")

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
        figures = (f"{words} {row[name]:.3f}" for name, words in _SHOWN.items() if name in row)
        self.log("  ".join([f"epoch {row['epoch']}/{self._epochs}" if row["epoch"] else "start", *figures]))
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


def score(row: Mapping[str, float]) -> tuple[float, float]:
    """Return what makes one epoch better than another: accuracy and, where that is equal, the lower loss."""
    return row["validation_accuracy"], -row["validation_loss"]


def describe_explosion(loss: float, num_classes: int, *, distilled: bool = False) -> str | None:
    """Return a sentence if a mean loss is far above that of a guess, else ``None``."""
    guess = math.log(num_classes)
    if distilled or loss <= _EXPLODED_LOSS * max(guess, 1.0):
        return None
    return f"The loss has exploded: it is {loss:.3g}, where a guess has {guess:.3g}."


def find_trouble(history: History, num_classes: int, *, kept_head: bool | None) -> Iterator[tuple[str, str]]:
    """Look whether the last epoch of a run from initial weights ruins them.

    Args:
        history: the run's, with the row of the initial weights.
        num_classes: number of classes.
        kept_head: whether the initial weights know the classes; ``None``: there are none.

    Yields:
        A word for each kind of trouble, and a sentence.
    """
    start, last = history[0], history[-1]
    if kept_head is None or start["epoch"] or start["image_size"] != last["image_size"]:
        return
    exploded = describe_explosion(last["validation_loss"], num_classes)
    if exploded:
        yield EXPLODED, exploded
    if kept_head and last["validation_accuracy"] < start["validation_accuracy"]:
        accuracy, initial = last["validation_accuracy"], start["validation_accuracy"]
        kind = FALLEN_FAR if accuracy < initial - _FAR else FALLEN
        yield kind, f"The validation accuracy is {accuracy:.4g}, below the {initial:.4g} of the initial weights."


def conclude(history: History, best: float, head_epochs: int, images: int) -> Iterator[str]:
    """Say which epoch is the result, and what training the backbone has gained.

    Args:
        history: the finished run's.
        best: the epoch whose weights are the result.
        head_epochs: the first epochs, in which the backbone was frozen.
        images: number of validation images.
    """
    comparable = [row for row in history if row["image_size"] == history[-1]["image_size"]]
    chosen = next(row for row in comparable if row["epoch"] == best)
    accuracy = f"validation accuracy {chosen['validation_accuracy']:.4g}"
    if not best:
        yield (
            f"No epoch was better than the initial weights ({accuracy}), so {_WEIGHTS} and {BUNDLE_FOLDER} hold "
            f"those; {_LAST} holds the last epoch. More images may help, or a lower --learning-rate."
        )
        return
    if best != history[-1]["epoch"]:
        yield (
            f"Epoch {best:g} was the best ({accuracy}): {_WEIGHTS} and {BUNDLE_FOLDER} hold it, {_LAST} holds "
            "the last one."
        )
    frozen = [row for row in comparable if 0 < row["epoch"] <= head_epochs]
    free = [row for row in comparable if row["epoch"] > head_epochs]
    if not frozen or not free:
        return
    before, after = (max(rows, key=score)["validation_accuracy"] for rows in (frozen, free))
    noise = math.sqrt(max(after * (1 - after), before * (1 - before)) / images)
    figures = f"{after:.4g} against {before:.4g} with it frozen, on {images} images"
    if after - before > noise:
        yield f"Training the backbone helped: {figures}."
    else:
        yield (
            f"Training the backbone did not clearly beat a frozen one: {figures}. --freeze-backbone may do as well in "
            "less time; more images or epochs may help."
        )


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

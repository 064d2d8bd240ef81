"""Does fine-tuning beat training from scratch, and distillation labels alone? Two small experiments.

Run it in the training environment: ``.venv-train/bin/python benchmarks/training.py --data cifar10-train.tar``, with
CIFAR-10's training images as a tar of a folder a class. Both experiments train and measure on the images that the
embedded model was never trained on: those that its own run, with the same seed, kept for validation. Every training is
``python -m exporters train``, one after the other, on one thread. Training from scratch gets two epochs more than
fine-tuning, so that it has no less time; the arms of distillation see the same images as often.
"""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.turns import print_machine
from exporters.training.data import DataSources, split_sources
from ghostzoo.catalog import DEFAULT_MODEL
from ghostzoo.cli.console import print_table
from ghostzoo.evaluation.datasets import ImageDataset, Sample

ROOT = Path(__file__).parents[1]
EMBEDDED_SPLIT, EMBEDDED_SEED = 0.05, 1
WEIGHTS = ROOT / "examples" / f"{DEFAULT_MODEL}.pdparams"
FIVE = ("bird", "cat", "deer", "dog", "frog")
COMMON = ("--batch-size=32", "--threads=1", "--quiet")
SMALL_DATA = "--crop-scale=0.4"
"""For all but fine-tuning, which has a default of its own."""
FINE_TUNING = ("--image-size=96", "--resize-short=110")
DISTILLATION = ("--width=0.25", "--epochs=20", "--image-size=64", "--resize-short=73")
RATES = (0.05, 0.01)


@dataclass(frozen=True)
class Arm:
    """One way to train; ``options`` are what it has beside its rivals."""

    name: str
    options: tuple[str, ...]


FROM_EMBEDDED = ("--epochs=12", f"--init={WEIGHTS}", "--new-head")
FINE_TUNING_ARMS = (
    *(
        Arm(
            f"scratch, 14 epochs, rate {rate}",
            ("--epochs=14", "--model=GhostNet_x0_5", SMALL_DATA, f"--learning-rate={rate}"),
        )
        for rate in RATES
    ),
    Arm("embedded model's backbone, frozen, 12 epochs", (*FROM_EMBEDDED, "--freeze-backbone")),
    Arm("embedded model's backbone, 12 epochs", FROM_EMBEDDED),
)
DISTILLATION_ARMS = tuple(
    Arm(f"{answers}, rate {rate}", (*options, SMALL_DATA, f"--learning-rate={rate}"))
    for answers, options in (
        ("labels alone", ()),
        ("labels and teacher", (f"--teacher={DEFAULT_MODEL}", "--distill-weight=2")),
    )
    for rate in RATES
)


def write_images(samples: Iterable[Sample], classes: tuple[str, ...], folder: Path) -> Path:
    """Write the samples as a folder a class."""
    for sample in samples:
        target = folder / classes[sample.label] / Path(sample.name).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(sample.read())
    return folder


def halve(dataset: ImageDataset, classes: Iterable[str], folder: Path) -> tuple[Path, Path]:
    """Write half of each class for training, and half for measuring."""
    by_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in dataset.samples:
        by_class[sample.label].append(sample)
    chosen = [by_class[dataset.classes.index(name)] for name in classes]
    halves = [[sample for each in chosen for sample in each[first::2]] for first in (0, 1)]
    training, measuring = (
        write_images(half, dataset.classes, folder / name)
        for half, name in zip(halves, ("training", "measuring"), strict=True)
    )
    return training, measuring


def train(training: Path, measuring: Path, options: Iterable[str]) -> tuple[float, float]:
    """Return the accuracy after the last epoch, and the seconds that the command took."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "exporters", "train", "--data", training, "--val", measuring, "--out", out]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        subprocess.run([*command, *options], check=True, env=environment)
        seconds = time.perf_counter() - start
        with (Path(out) / "metrics.csv").open(encoding="utf-8") as file:
            return float(list(csv.DictReader(file))[-1]["validation_accuracy"]), seconds


def compare(
    title: str, arms: Iterable[Arm], training: Path, measuring: Path, options: Iterable[str], seeds: int
) -> None:
    """Train each arm once a seed, in rounds, and print a table."""
    arms = tuple(arms)
    results: dict[str, list[tuple[float, float]]] = {arm.name: [] for arm in arms}
    for seed in range(seeds):
        for arm in arms:
            results[arm.name].append(train(training, measuring, (*options, *arm.options, f"--seed={seed}")))
            print(f"{title}, seed {seed}, {arm.name}: {results[arm.name][-1][0]:.4f}", file=sys.stderr)
    reference = statistics.median(seconds for _, seconds in results[arms[0].name])
    print_table(
        [title, "top-1, mean", *(f"seed {seed}" for seed in range(seeds)), "time"],
        [
            [
                name,
                f"{statistics.mean(accuracy for accuracy, _ in runs):.3f}",
                *(f"{accuracy:.3f}" for accuracy, _ in runs),
                f"{statistics.median(seconds for _, seconds in runs) / reference:.2f}",
            ]
            for name, runs in results.items()
        ],
        caption=f"{count(training)} images to train on, {count(measuring)} to measure on; time relative to the first.",
    )


def count(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="CIFAR-10's training images.")
@click.option("--experiment", type=click.Choice(["all", "fine-tuning", "distillation"]), default="all")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
def main(data: Path, experiment: str, seeds: int) -> None:
    """Fine-tuning against training from scratch, distillation against labels alone."""
    print_machine()
    _, unseen, _ = split_sources(DataSources(data, validation_split=EMBEDDED_SPLIT), EMBEDDED_SEED)
    assert unseen is not None
    with tempfile.TemporaryDirectory() as scratch:
        if experiment in ("all", "fine-tuning"):
            halves = halve(unseen, FIVE, Path(scratch, "five"))
            compare("five classes", FINE_TUNING_ARMS, *halves, (*COMMON, *FINE_TUNING), seeds)
        if experiment in ("all", "distillation"):
            halves = halve(unseen, unseen.classes, Path(scratch, "ten"))
            compare("ten classes, width 0.25", DISTILLATION_ARMS, *halves, (*COMMON, *DISTILLATION), seeds)


if __name__ == "__main__":
    main()

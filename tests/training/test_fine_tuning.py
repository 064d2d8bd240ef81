"""Runs that start from given weights: these are not ruined, and what a run does to them is said."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import ghostzoo
from exporters.cli import main
from ghostzoo.bundle.folder import Bundle
from ghostzoo.evaluation.datasets import open_dataset
from ghostzoo.weights.params import read_weights
from tests.training.runs import EMBEDDED, ROOT, Run, train

pytestmark = pytest.mark.slow

CIFAR = ROOT.parent / "shared" / "data" / "cifar10-test-dev.tar"
needs_photographs = pytest.mark.skipif(
    not CIFAR.exists(), reason=f"needs CIFAR-10's test images as {CIFAR.name} in a folder 'shared' beside the checkout"
)


def tune(*arguments: Any) -> Run:
    """Fine-tune the embedded model with the defaults."""
    command = ["train", "--init", EMBEDDED, "--threads=1", *arguments]
    result = CliRunner().invoke(main, [*map(str, command)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Run(result.exit_code, result.stdout, result.stderr)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def accuracies(out: Path) -> dict[int, float]:
    """Validation accuracy by epoch; 0 is the start."""
    return {int(row["epoch"]): float(row["validation_accuracy"]) for row in rows(out)}


def write_classes(root: Path, draw: Callable[[int, np.random.Generator], np.ndarray], count: int) -> Path:
    """Write five classes of 32-pixel pictures, a folder each."""
    rng = np.random.default_rng(0)
    for number in range(5):
        folder = root / f"class {number}"
        folder.mkdir(parents=True)
        for index in range(count):
            cv2.imwrite(str(folder / f"{index:02}.png"), draw(number, rng))
    return root


def draw_digit(number: int, rng: np.random.Generator) -> np.ndarray:
    """Draw 3 to 7 in some font, size, place, colour and ground: nothing that CIFAR-10 has taught."""
    picture = (rng.integers(0, 140, 3) + rng.normal(0, 12, (64, 64, 3))).clip(0, 255).astype(np.uint8)
    place = (int(rng.integers(8, 26)), int(rng.integers(40, 58)))
    colour, thickness = rng.integers(150, 256, 3).tolist(), int(rng.integers(1, 4))
    font, scale = int(rng.integers(8)), float(rng.uniform(0.9, 1.7))
    cv2.putText(picture, str(number + 3), place, font, scale, colour, thickness, cv2.LINE_AA)
    return cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA)


def draw_colour(number: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one of five plain colours, which any features tell apart."""
    colours = np.array([(20, 20, 20), (230, 230, 230), (230, 20, 20), (20, 230, 20), (20, 20, 230)])
    return (colours[number] + rng.normal(0, 6, (32, 32, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """150 pictures of the embedded model's classes to train on, and 300 others, none of which it has seen."""
    root = tmp_path_factory.mktemp("cifar")
    dataset = open_dataset(CIFAR)
    for label, name in enumerate(dataset.classes):
        members = [sample for sample in dataset.samples if sample.label == label]
        for part, samples in (("few", members[:15]), ("others", members[15:45])):
            (root / part / name).mkdir(parents=True)
            for sample in samples:
                (root / part / name / Path(sample.name).name).write_bytes(sample.read())
    return root / "few", root / "others"


def measure(bundle: Path, images: Path) -> float:
    """Share of the images of a folder of classes that the bundle's best answer is right on."""
    files = sorted(path for path in images.rglob("*") if path.is_file())
    with ghostzoo.load(bundle, engine="onnxruntime", threads=1) as classifier:
        return sum(classifier(file, top_k=1)[0].label == file.parent.name for file in files) / len(files)


@pytest.fixture(scope="module")
def good(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has learnt its pictures well."""
    out = tmp_path_factory.mktemp("good") / "good"
    train("--data", pictures, "--val", pictures, "--out", out, "--epochs=6", "--optimizer=adamw").check()
    return out


@needs_photographs
@pytest.mark.parametrize("options", [(), ("--val-split=0",), ("--learning-rate=0.05",)], ids=["", "blind", "harsh"])
def test_own_classes_stay_within_two_points(
    photographs: tuple[Path, Path], tmp_path: Path, options: tuple[str, ...]
) -> None:
    """On pictures that the run never sees, also where it has none to validate on, or far too high a rate."""
    few, others = photographs
    tune("--data", few, "--out", tmp_path / "run", "--epochs=2", *options).check()
    assert (
        measure(tmp_path / "run" / "bundle", others) >= measure(ROOT / "ghostzoo/models" / EMBEDDED.stem, others) - 0.02
    )


@needs_photographs
def test_the_start_is_measured_as_the_bundle_is(photographs: tuple[Path, Path], tmp_path: Path) -> None:
    few, others = photographs
    run = tune("--data", few, "--val", others, "--out", tmp_path / "run", "--epochs=1").check()
    start = measure(ROOT / "ghostzoo" / "models" / EMBEDDED.stem, others)
    assert accuracies(tmp_path / "run")[0] == pytest.approx(start)
    assert "starting from GhostNet_x0_5_cifar10.pdparams, with its head" in run.stderr
    assert (
        f"start  validation loss {float(rows(tmp_path / 'run')[0]['validation_loss']):.3f}  accuracy {start:.3f}"
        in run.stderr
    )
    assert Bundle.open(tmp_path / "run" / "bundle").preprocessing.resize_short == 110  # the embedded model's


@pytest.mark.parametrize(
    ("draw", "head_epochs"),
    [(draw_digit, "--head-epochs=1"), (draw_colour, "--head-epochs=3")],
    ids=["digits", "colours"],
)
def test_new_classes_beat_a_frozen_backbone_or_it_is_said(
    tmp_path: Path, draw: Callable[[int, np.random.Generator], np.ndarray], head_epochs: str
) -> None:
    """A head alone learns to name colours in a few epochs; digits it does not."""
    data = write_classes(tmp_path / "new", draw, 40)
    options = ("--data", data, "--epochs=4", "--image-size=64")
    frozen = tune(*options, "--out", tmp_path / "frozen", "--freeze-backbone").check()
    whole = tune(*options, "--out", tmp_path / "whole", head_epochs).check()
    assert "with a new head for 5 classes" in whole.stderr
    best = {name: max(accuracies(tmp_path / name).values()) for name in ("frozen", "whole")}
    said = "did not clearly beat a frozen one" in whole.stderr
    assert best["whole"] > best["frozen"] or said
    assert said == (draw is draw_colour)
    assert "Training the backbone helped" in whole.stderr or said
    assert "Training the backbone" not in frozen.stderr


def test_the_head_learns_first_and_the_statistics_stay(finished: Path, pictures: Path, tmp_path: Path) -> None:
    options = ("--data", pictures, "--init", finished / "weights.pdparams", "--out", tmp_path / "run", "--epochs=2")
    before = read_weights(finished / "weights.pdparams").arrays
    train(*options, "--head-epochs=1", "--until=1").check()
    changed = {
        key
        for key, array in read_weights(tmp_path / "run" / "last.pdparams").arrays.items()
        if differs(array, before[key])
    }
    assert changed == {"fc_1.weight", "fc_1.bias"}
    train(*options, "--head-epochs=1", "--resume").check()
    after = read_weights(tmp_path / "run" / "last.pdparams").arrays
    assert differs(after["conv1._conv.weight"], before["conv1._conv.weight"])
    statistics = [key for key in before if key.endswith(("._mean", "._variance"))]
    assert statistics
    assert not any(differs(after[key], before[key]) for key in statistics)


def differs(one: np.ndarray, other: np.ndarray) -> bool:
    return not np.array_equal(one, other)


def test_fine_tuning_resumes_bit_exactly(finished: Path, pictures: Path, tmp_path: Path) -> None:
    """Interrupted before and after the backbone starts to learn, with the best epoch among what is taken up again."""
    options = (
        "--data",
        pictures,
        "--init",
        finished / "weights.pdparams",
        "--epochs=3",
        "--head-epochs=1",
        "--name=run",
    )
    train(*options, "--out", tmp_path / "unbroken").check()
    broken = (*options, "--out", tmp_path / "broken")
    for part in (("--until=1",), ("--until=2", "--resume"), ("--resume",)):
        train(*broken, *part).check()
    for name in ("weights.pdparams", "last.pdparams"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    assert [accuracies(tmp_path / name) for name in ("broken", "unbroken")] == [accuracies(tmp_path / "broken")] * 2
    assert len(rows(tmp_path / "broken")) == 4


def test_a_ruinous_rate_is_told_and_the_start_is_kept(good: Path, pictures: Path, tmp_path: Path) -> None:
    start = good / "weights.pdparams"
    options = ("--data", pictures, "--val", pictures, "--init", start, "--learning-rate=3", "--head-epochs=0")
    run = train(*options, "--out", tmp_path / "run", "--epochs=2", "--quiet").check()
    assert "Warning: The loss has exploded" in run.stderr
    assert "with a lower --learning-rate, such as 0.3, or with --freeze-backbone" in run.stderr
    assert (tmp_path / "run" / "weights.pdparams").read_bytes() == start.read_bytes()
    assert (tmp_path / "run" / "last.pdparams").read_bytes() != start.read_bytes()
    validation = Bundle.open(tmp_path / "run" / "bundle").manifest.validation
    assert validation["epoch"] == "0 of 2, the best on the validation data"
    assert validation["validation_accuracy"] == accuracies(tmp_path / "run")[0]


def test_the_best_epoch_is_written_beside_the_last(finished: Path, pictures: Path) -> None:
    measured = accuracies(finished)
    same_size = {epoch: value for epoch, value in measured.items() if epoch > 1}  # the first is at 40 pixels
    validation = Bundle.open(finished / "bundle").manifest.validation
    assert validation["validation_accuracy"] == max(same_size.values())
    best = int(validation["epoch"].split()[0])
    same = (finished / "weights.pdparams").read_bytes() == (finished / "last.pdparams").read_bytes()
    assert same == (best == 3)


def test_as_many_but_other_classes_are_noticed(good: Path, pictures: Path, tmp_path: Path) -> None:
    """Weights without a bundle, whose head takes each class for the next one."""
    weights = tmp_path / "alone.pdparams"
    weights.write_bytes((good / "weights.pdparams").read_bytes())
    for old, new in (("disc", "c"), ("plain", "a"), ("stripes", "b")):
        shutil.copytree(pictures / old, tmp_path / "turned" / new)
    options = ("--data", tmp_path / "turned", "--val-split=0.5", "--init", weights, "--epochs=1")
    run = train(*options, "--out", tmp_path / "run").check()
    assert "If their classes differ, or come in another order, start again with --new-head." in run.stderr
    again = train(*options, "--out", tmp_path / "again", "--new-head").check()
    assert "starting from alone.pdparams, with a new head for 3 classes" in again.stderr
    assert "start again with --new-head" not in again.stderr


def test_the_mild_defaults_hold_with_initial_weights_only(finished: Path, pictures: Path, tmp_path: Path) -> None:
    def recipe_of(name: str, *options: Any) -> dict[str, Any]:
        result = CliRunner().invoke(
            main, [*map(str, ("train", "--data", pictures, "--out", tmp_path / name, "--threads=1", *options))]
        )
        assert result.exit_code == 0, result.stderr
        chosen: dict[str, Any] = json.loads((tmp_path / name / "run.json").read_text())["recipe"]
        return chosen

    start = ("--init", finished / "weights.pdparams", "--epochs=2")
    names = (
        "optimizer",
        "learning_rate",
        "batch_size",
        "crop_scale",
        "backbone_rate",
        "keep_statistics",
        "head_epochs",
    )
    mild = recipe_of("mild", *start)
    assert [mild[name] for name in names] == ["adamw", 0.0003, 32, 0.5, 0.1, True, 1]
    assert (mild["image_size"], mild["resize_short"]) == (32, 37)  # the weights' own
    assert recipe_of("new", *start, "--new-head")["learning_rate"] == 0.003
    frozen = recipe_of("frozen", *start, "--freeze-backbone", "--crop-scale=0.9", "--image-size=40")
    assert [frozen[name] for name in ("head_epochs", "crop_scale", "image_size")] == [2, 0.9, 40]
    scratch = recipe_of("scratch", "--width=0.1", "--image-size=32", "--batch-size=64", "--epochs=1")
    assert [scratch[name] for name in names] == ["sgd", None, 64, 0.08, 1.0, False, 0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--head-epochs=1",), "head-epochs is for initial weights; give these with --init"),
        (("--keep-statistics",), "keep-statistics is for initial weights"),
        (("--new-head",), "new-head is for initial weights"),
        (("--freeze-backbone",), "head-epochs is for initial weights"),
    ],
)
def test_what_initial_weights_are_needed_for(
    pictures: Path, tmp_path: Path, options: tuple[str, ...], expected: str
) -> None:
    assert expected in train("--data", pictures, "--out", tmp_path / "run", *options).error()


def test_the_other_optimiser_needs_a_rate_of_its_own(finished: Path, pictures: Path, tmp_path: Path) -> None:
    command = ["train", "--data", pictures, "--out", tmp_path / "run"]
    for options, name in (
        (("--optimizer=adamw",), "AdamW from random weights"),
        (("--optimizer=sgd", "--init", finished / "weights.pdparams"), "SGD from initial weights"),
    ):
        result = CliRunner().invoke(main, [*map(str, (*command, *options))])
        assert result.exit_code == 1
        assert f"{name} needs an explicit --learning-rate" in result.stderr


def test_frozen_and_head_epochs_exclude_each_other(finished: Path, pictures: Path, tmp_path: Path) -> None:
    run = tune("--data", pictures, "--out", tmp_path / "run", "--freeze-backbone", "--head-epochs=1")
    assert run.code == 2
    assert "Give --freeze-backbone or --head-epochs, not both" in run.stderr


def test_without_validation_the_last_epoch_is_written(finished: Path, pictures: Path, tmp_path: Path) -> None:
    options = ("--init", finished / "weights.pdparams", "--val-split=0", "--epochs=1")
    run = train("--data", pictures, "--out", tmp_path / "run", *options).check()
    assert "Without validation images nothing is measured" in run.stderr
    assert not (tmp_path / "run" / "last.pdparams").exists()
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["1"]

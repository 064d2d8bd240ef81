from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import ghostzoo
from exporters.training.pretrained import Teacher, load_teacher
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import GhostZooError, OptionError
from ghostzoo.images.preprocessing import Preprocessing
from tests.training.runs import train

pytestmark = pytest.mark.slow

CLASSES = ("disc", "plain", "stripes")
CPU = torch.device("cpu")


def load(path: Path, classes: tuple[str, ...] = CLASSES, preprocessing: Preprocessing | None = None) -> Teacher:
    return load_teacher(path, classes, preprocessing or Preprocessing(resize_short=32, crop_size=32), CPU, 1)


def scale(logits: NDArray[np.float32]) -> float:
    return float(np.abs(logits).max())


@pytest.mark.parametrize("file", ["bundle", "weights.pdparams"])
def test_a_teacher_gives_the_answers_of_its_network(finished: Path, file: str) -> None:
    golden = Bundle.open(finished / "bundle").golden()
    answer = load(finished / file).logits(torch.from_numpy(golden.pixel_values.copy()))
    assert answer.numpy() == pytest.approx(golden.logits, abs=1e-4 * scale(golden.logits))
    assert not answer.requires_grad


def test_a_bundle_is_asked_in_its_own_preprocessing(finished: Path) -> None:
    """The student's normalisation is undone, and its images are resized to the teacher's."""
    golden = Bundle.open(finished / "bundle").golden()
    own = Preprocessing(resize_short=64, crop_size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    x = torch.from_numpy(golden.pixel_values.copy())
    standard = Preprocessing()
    for channel in range(3):
        pixels = x[:, channel] * standard.std[channel] + standard.mean[channel]
        x[:, channel] = (pixels - own.mean[channel]) / own.std[channel]
    teacher = load(finished / "bundle", preprocessing=own)
    assert teacher.logits(x).numpy() == pytest.approx(golden.logits, abs=1e-3 * scale(golden.logits))
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert teacher.logits(doubled).numpy() == pytest.approx(golden.logits, abs=1e-3 * scale(golden.logits))


@pytest.mark.parametrize("file", ["bundle", "weights.pdparams"])
def test_unlabelled_images_are_learnt_from_and_counted(
    finished: Path, pictures: Path, tmp_path: Path, file: str
) -> None:
    options = ("--teacher", finished / file, "--unlabelled", pictures / "disc", "--epochs=2", "--mixup=0.2")
    run = train("--data", pictures, "--out", tmp_path / "run", *options).check()
    assert "3 classes, 120 training images, 40 unlabelled images" in run.stderr
    validation = Bundle.open(tmp_path / "run" / "bundle").manifest.validation
    assert validation["unlabelled_images"] == 40
    assert validation["teacher"] == {"bundle": "shapes-run", "weights.pdparams": "weights.pdparams"}[file]
    message = train("--data", pictures, "--out", tmp_path / "run", "--resume", "--epochs=2", "--mixup=0.2", "--quiet")
    assert "the training images were different, the teacher's weights were different" in message.error()


def test_a_student_comes_nearer_to_its_teacher(finished: Path, pictures: Path, tmp_path: Path) -> None:
    options = ("--data", pictures, "--epochs=6", "--dropout=0", "--seed=7")
    train(*options, "--out", tmp_path / "taught", "--teacher", finished / "bundle", "--distill-weight=10").check()
    train(*options, "--out", tmp_path / "alone").check()

    def answers(bundle: Path) -> NDArray[np.float32]:
        with ghostzoo.load(bundle, engine="onnxruntime", threads=1) as classifier:
            return classifier.probabilities(sorted(pictures.rglob("*.png")))

    teacher = answers(finished / "bundle")
    taught, alone = (abs(answers(tmp_path / name / "bundle") - teacher).mean() for name in ("taught", "alone"))
    assert taught < alone


@pytest.mark.parametrize("file", ["bundle", "weights.pdparams"])
def test_a_teacher_of_other_classes_is_refused(finished: Path, file: str) -> None:
    with pytest.raises(OptionError, match="has 3 classes, the data have 2"):
        load(finished / file, ("disc", "plain"))


def test_a_bundle_with_the_classes_in_another_order_is_refused(finished: Path) -> None:
    with pytest.raises(OptionError, match="calls class 1 'plain', the data 'stripes'"):
        load(finished / "bundle", ("disc", "stripes", "plain"))


def test_unreadable_teacher_is_one_clear_error(finished: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, finished / "metrics.csv"):
        with pytest.raises(GhostZooError, match=str(path)):
            load(path)

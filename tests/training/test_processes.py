"""Two processes with ``torchrun``, on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ghostzoo.bundle.folder import Bundle
from ghostzoo.weights.params import read_weights
from tests.training.runs import start, train, wait
from tests.training.test_teacher import write_teacher

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
        reason="this PyTorch was built without gloo, which joins processes on CPUs",
    ),
]


def test_two_processes_match_one_and_write_once(finished: Path, pictures: Path, tmp_path: Path) -> None:
    """With a frozen backbone and no dropout nothing depends on how a batch is shared, so the heads must agree."""
    options = (
        *("--data", pictures, "--init", finished / "weights.pdparams", "--freeze-backbone", "--dropout=0"),
        *("--val-split=0.2", "--epochs=2", "--ema=0.9", "--mixup=0"),
    )
    two = wait(start(*options, "--out", tmp_path / "two", launcher=TORCHRUN)).check()
    assert two.stderr.count("wrote ") == two.stderr.count("epoch 2/2") == 1
    train(*options, "--out", tmp_path / "one").check()
    one, both = (read_weights(tmp_path / name / "weights.pdparams").arrays for name in ("one", "two"))
    assert all(np.allclose(one[key], both[key], atol=1e-5, rtol=1e-4) for key in one)
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines()[-1].split(",")[:7] for name in ("one", "two")]
    assert [float(value) for value in rows[0]] == pytest.approx([float(value) for value in rows[1]], rel=1e-4)
    assert Bundle.open(tmp_path / "two" / "bundle").manifest.validation["processes"] == 2


def test_two_processes_share_a_teachers_answers(pictures: Path, tmp_path: Path) -> None:
    options = ("--teacher", write_teacher(tmp_path), "--feature-weight=1", "--epochs=1", "--data", pictures)
    two = wait(start(*options, "--out", tmp_path / "two", launcher=TORCHRUN)).check()
    assert two.stderr.count("the teacher is right on") == 1
    assert len(list((tmp_path / "two" / "teacher").rglob("*.npy"))) == 1

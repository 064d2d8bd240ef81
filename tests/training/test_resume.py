from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from exporters.training.checkpoint import SignalListener, load_checkpoint, save_checkpoint
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import InputError
from tests.training.runs import EVERYTHING, start, train, wait

pytestmark = pytest.mark.slow

needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGSTOP and SIGKILL to stop a process with")


def hold_in_the_middle_of_an_epoch(process: subprocess.Popen[str], out: Path, beyond: tuple[int, int]) -> None:
    """Halt the process when its checkpoint is past ``beyond`` (epoch, step) and within an epoch."""

    def is_there() -> bool:
        state = load_checkpoint(out)
        return (state["epoch"], state["step"]) > beyond and state["step"] > 0

    while process.poll() is None:
        if (out / "checkpoint.pt").exists() and is_there():
            process.send_signal(signal.SIGSTOP)
            if is_there():  # still: it may have gone on before it was halted
                return
            process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    pytest.fail(f"the run ended before it could be halted: {process.communicate()[1]}")


@needs_signals
def test_killed_and_terminated_runs_resume_bit_exactly(pictures: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "shapes-run"
    options = ("--data", pictures, "--out", out, *EVERYTHING)

    killed = start(*options, "--checkpoint-minutes=0")
    hold_in_the_middle_of_an_epoch(killed, out, beyond=(0, 3))
    killed.kill()
    assert wait(killed).code == -signal.SIGKILL
    state = load_checkpoint(out)
    assert state["step"] > 0
    assert not (out / "weights.pdparams").exists()

    terminated = start(*options, "--checkpoint-minutes=0", "--resume")
    hold_in_the_middle_of_an_epoch(terminated, out, beyond=(1, 3))
    terminated.send_signal(signal.SIGTERM)
    terminated.send_signal(signal.SIGCONT)
    run = wait(terminated)
    assert run.code == 128 + signal.SIGTERM
    assert f"resumed after {state['epoch']} epochs and {state['step']} steps" in run.stderr
    assert run.stderr.splitlines()[-1].startswith("Stopped in epoch 2 after ")
    assert "--resume continues" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (out / "weights.pdparams").exists()

    (out / ".checkpoint.pt-0123456789ab.tmp").touch()  # what a kill in the middle of a write leaves
    train(*options, "--resume").check()
    assert (out / "weights.pdparams").read_bytes() == (finished / "weights.pdparams").read_bytes()
    for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate"):
        assert column(out, name) == column(finished, name)
    assert not list(out.glob(".*"))


def test_run_ends_early_with_until_and_resumes_bit_exactly(pictures: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "shapes-run"
    options = ("--data", pictures, "--out", out, *EVERYTHING)
    train(*options, "--until=1").check()
    assert Bundle.open(out / "bundle").preprocessing.crop_size == 40  # of the stage in which it ended
    assert len(column(out, "epoch")) == 1
    train(*options, "--resume").check()
    assert (out / "weights.pdparams").read_bytes() == (finished / "weights.pdparams").read_bytes()
    assert Bundle.open(out / "bundle").preprocessing.crop_size == 32
    late = train(*options, "--resume", "--until=1")
    assert late.code == 1
    assert late.stderr.splitlines()[-1].endswith("give --until a later one, or leave it out.")
    assert "until must be from 1 to the 3 epochs" in train(*options, "--resume", "--until=4").error()


def test_distilled_run_with_adamw_resumes_bit_exactly(pictures: Path, finished: Path, tmp_path: Path) -> None:
    options = (
        *("--data", pictures, "--teacher", finished / "bundle", "--unlabelled", pictures, "--epochs=2", "--seed=5"),
        *("--optimizer=adamw", "--learning-rate=0.002", "--gate-rate=0.1", "--interpolation=random"),
    )
    train(*options, "--out", tmp_path / "unbroken", "--name=run").check()
    broken = (*options, "--out", tmp_path / "broken", "--name=run")
    train(*broken, "--until=1").check()
    train(*broken, "--resume").check()
    weights = [(tmp_path / name / "weights.pdparams").read_bytes() for name in ("unbroken", "broken")]
    assert weights[0] == weights[1]


def column(out: Path, name: str) -> list[str]:
    header, *rows = [line.split(",") for line in (out / "metrics.csv").read_text().splitlines()]
    return [row[header.index(name)] for row in rows]


def test_another_seed_gives_other_weights(pictures: Path, finished: Path, tmp_path: Path) -> None:
    other = [option if not option.startswith("--seed") else "--seed=4" for option in EVERYTHING]
    train("--data", pictures, "--out", tmp_path / "other", *other).check()
    assert (tmp_path / "other" / "weights.pdparams").read_bytes() != (finished / "weights.pdparams").read_bytes()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ("--seed=4", "seed was 3, the training images were different, the validation images were different"),
        ("--val-split=0.3", "the training images were different, the validation images were different"),
        ("--rand-augment=2:8", "rand-augment was (2, 9.0)"),
    ],
)
def test_a_run_is_resumed_with_its_own_options_only(pictures: Path, finished: Path, changed: str, reason: str) -> None:
    record = (finished / "run.json").read_bytes()
    run = train("--data", pictures, "--out", finished, *EVERYTHING, changed, "--resume", "--quiet")
    assert f"holds another run ({reason}); resume it with its own options" in run.error()
    assert (finished / "run.json").read_bytes() == record


def test_a_folder_with_a_run_is_not_written_over(pictures: Path, finished: Path) -> None:
    message = train("--data", pictures, "--out", finished, *EVERYTHING).error()
    assert "holds a run already; continue it with --resume" in message


def test_resuming_nothing_is_an_error(pictures: Path, tmp_path: Path) -> None:
    message = train("--data", pictures, "--out", tmp_path / "none", "--epochs=1", "--resume").error()
    assert "holds no checkpoint.pt to resume from; start without --resume" in message
    assert not (tmp_path / "none").exists()


def test_resuming_a_finished_run_writes_its_results_again(pictures: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "shapes-run"
    shutil.copytree(finished, out)
    (out / "weights.pdparams").unlink()
    (out / "metrics.csv").unlink()
    train("--data", pictures, "--out", out, *EVERYTHING, "--resume").check()
    for name in ("weights.pdparams", "metrics.csv"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_damaged_checkpoint_is_one_clear_error(finished: Path, tmp_path: Path, keep: float) -> None:
    data = (finished / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(InputError, match=r"checkpoint.pt is not a readable checkpoint"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_is_data_and_executes_nothing(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"format": 1, "epoch": Touch()}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path, {"epoch": (part for part in "not data")})
    assert load_checkpoint(tmp_path)["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="not a checkpoint of this version"):
        load_checkpoint(tmp_path)


@needs_signals
def test_first_signal_is_remembered_and_second_acts() -> None:
    before = signal.getsignal(signal.SIGINT)
    listener = SignalListener()
    with listener.listen():
        os.kill(os.getpid(), signal.SIGINT)
        assert listener.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before

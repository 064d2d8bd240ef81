from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from exporters.cli import main
from tests.training.runs import train


def refused(*arguments: Any) -> str:
    """Return what is printed of options that are wrong in themselves."""
    result = CliRunner().invoke(main, ["train", *map(str, arguments)])
    assert result.exit_code == 2
    return result.stderr.splitlines()[-1]


def test_help_names_the_published_recipe_and_how_to_go_on() -> None:
    result = CliRunner().invoke(main, ["train", "--help"])
    assert result.exit_code == 0
    for part in (
        "PaddleClas",
        "--resume",
        "torchrun",
        "[default: 360; with --init 20]",
        "--unlabelled",
        "--freeze-backbone",
    ):
        assert part in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--grow=48", "'48' is not of the form SIZE:EPOCHS"),
        ("--more=photos:0", "the share must be above 0"),
        ("--grow=a:2", "'a:2' is not of the form SIZE:EPOCHS"),
        ("--rand-augment=2,9", "'2,9' is not of the form OPERATIONS:MAGNITUDE"),
        ("--optimizer=adam", "'adam' is not one of 'sgd', 'adamw'"),
        ("--val-split=1.5", "1.5 is not in the range"),
        ("--no-such", "No such option"),
    ],
)
def test_wrong_options_are_told_in_one_sentence(option: str, expected: str) -> None:
    assert expected in refused("--data=photos", "--out=run", option)


def test_model_and_width_exclude_each_other() -> None:
    assert "not both" in refused("--data=photos", "--out=run", "--model=GhostNet_x1_0", "--width=0.5")


def test_an_unknown_model_is_told_with_the_nearest_ones(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["train", "--data=photos", f"--out={tmp_path}/run", "--model=GhostNet_x10"])
    assert result.exit_code == 1
    assert "Did you mean GhostNet_x1_0" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_no_silent_fallback(pictures: Path, tmp_path: Path) -> None:
    message = train("--data", pictures, "--out", tmp_path / "run", "--device=cuda").error()
    assert "no CUDA device" in message
    assert not (tmp_path / "run").exists()


def test_without_pytorch_the_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("exporters.training.command.find_spec", lambda name: None if name == "torch" else real(name))
    message = train("--data=photos", "--out", tmp_path / "run").error()
    assert "Training needs PyTorch" in message
    assert "pip install" in message


def test_short_runs_warm_up_for_a_tenth(pictures: Path, tmp_path: Path) -> None:
    train("--data", pictures, "--out", tmp_path / "run", "--epochs=1").check()
    assert '"warmup_epochs": 0.1' in (tmp_path / "run" / "run.json").read_text()


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="There is nothing at"):
        train("--data", tmp_path / "none", "--out", tmp_path / "run", "--debug")

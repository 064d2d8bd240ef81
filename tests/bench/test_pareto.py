"""Top-1 against latency: what is measured, which models are best, and the picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ghostzoo.bench.pareto import draw, find_front
from ghostzoo.catalog import get_model
from ghostzoo.cli import main


def test_the_front_has_no_model_that_another_beats() -> None:
    names = ["repghostnet_050.in1k", "GhostNet_x0_5", "GhostNet_x1_3", "GhostNet_x1_3_ssld", "ghostnetv2_160.in1k"]
    latencies = dict(zip(names, (2.0, 1.0, 5.0, 5.0, 9.0), strict=True))
    front = find_front([get_model(name) for name in names], latencies)
    assert front == ["GhostNet_x0_5", "repghostnet_050.in1k", "GhostNet_x1_3_ssld"]


@pytest.mark.slow
def test_networks_are_measured_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="Plots need matplotlib")
    picture = tmp_path / "pareto.png"
    done = CliRunner().invoke(main, ["list", "*_05*", "--pareto", "--json", "--out", str(picture)])
    assert done.exit_code == 0, done.output
    found = {record["name"]: record for record in map(json.loads, done.stdout.splitlines())}
    assert "repghostnet_058.in1k" in found
    assert all(record["latency_ms"] > 0 for record in found.values())
    assert any(record["on_front"] for record in found.values())
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_a_colour_for_each_family(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure", reason="pictures need matplotlib")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    records = [get_model(name) for name in ("GhostNet_x0_5", "GhostNet_x1_0", "repghostnet_050.in1k")]
    draw(records, {record.name: 1.0 + place for place, record in enumerate(records)}, ["GhostNet_x0_5"], "a machine")
    *families, _ = drawn[0].axes[0].lines
    assert [(line.get_label(), list(line.get_xdata())) for line in families] == [
        ("GhostNet", [1.0, 2.0]),
        ("RepGhostNet", [3.0]),
    ]


def test_names_of_near_points_stand_below_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure", reason="pictures need matplotlib")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    names = ["GhostNet_x1_3_ssld", "repghostnet_130.in1k", "ghostnetv2_130.in1k", "ghostnetv3_100.in1k"]
    draw([get_model(name) for name in names], dict(zip(names, (10.0, 5.0, 5.1, 6.0), strict=True)), names[:1], "")
    front, first, near, far = (text.xyann[1] for text in drawn[0].axes[0].texts)
    assert near < first == far < 0 < front


def test_without_matplotlib_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = CliRunner().invoke(main, ["list", "--pareto", "--out", "pareto.png"])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "pip install 'ghostzoo[plots]'" in done.stderr


def test_what_cannot_be_compared_is_said() -> None:
    done = CliRunner().invoke(main, ["list", "*cifar10", "--pareto"])
    assert "None of these models has an accuracy on ImageNet-1k" in done.stderr
    assert "--out is for the picture of --pareto" in CliRunner().invoke(main, ["list", "--out", "a.png"]).stderr

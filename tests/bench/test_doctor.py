from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ghostzoo._utils import hardware as gpus
from ghostzoo.bench import doctor
from ghostzoo.bench.doctor import Finding, Report
from ghostzoo.bundle.folder import Bundle
from ghostzoo.cli import main
from ghostzoo.engines import engine_names, engine_record
from ghostzoo.errors import EngineError


def test_it_tries_every_engine(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[Any] = []
    measured = doctor._measured
    monkeypatch.setattr(doctor, "_measured", lambda opened, bundle: timed.extend(opened) or measured(opened, bundle))
    result = CliRunner().invoke(main, ["doctor", "--json", "--model", str(tiny_bundle.path)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["usable"]
    assert report["model"] == "tiny"
    assert {"python", "os", "cpu", "cpu_features", "cpus_usable", "gpus", "cache", "ghostzoo"} <= set(report["machine"])
    assert {finding["engine"] for finding in report["engines"]} == set(engine_names())
    for finding in report["engines"]:
        assert finding["versions"] == engine_record(finding["engine"]).versions()
        if finding["usable"]:
            assert finding["relative_difference"] < 1e-4
            assert set(finding["milliseconds"]) == {"1", "8"}
            assert all(value > 0 for value in finding["milliseconds"].values())
        else:
            assert finding["reason"]
    for _, opened in timed:
        with pytest.raises(EngineError, match="closed"):
            opened.engine.run(tiny_bundle.golden().pixel_values)


def test_it_shows_figures_reasons_and_remedies(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = (
        Finding("quick", {"quick": "1.2"}, "cpu", 1.5e-6, {1: 2.0, 8: 16.0}, None, None),
        Finding("absent", {}, None, None, {}, "not installed", "pip install absent"),
        Finding("wrong", {"wrong": "3"}, "gpu", None, {}, "failed the golden check", None),
    )
    monkeypatch.setattr(doctor, "examine", lambda _: Report({"gpus": []}, "tiny", findings, ("Two wheels.",)))
    result = CliRunner().invoke(main, ["doctor", "--model", str(tiny_bundle.path)])
    assert result.exit_code == 0
    for part in (
        "passed, 1.5e-06",
        "2.00 ms",
        "16.00 ms",
        "absent: not installed; fix it with: pip install absent",
        "wrong on gpu: failed the golden check",
        "Warning: Two wheels.",
    ):
        assert part in result.stdout
    monkeypatch.setattr(doctor, "examine", lambda _: Report({}, "tiny", findings[1:], ()))
    assert CliRunner().invoke(main, ["doctor", "--model", str(tiny_bundle.path)]).exit_code == 1


def test_gpus_are_told_by_their_vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind, vendor in (("a", "0x030000", "0x1002"), ("b", "0x030200", "0x10de"), ("c", "0x020000", "0x8086")):
        for file, content in (("class", kind), ("vendor", vendor), ("device", "0x1234")):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_text(f"{content}\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", "")
    assert gpus.find_gpus(tmp_path) == [
        "AMD display controller 1002:1234",
        "NVIDIA display controller 10de:1234",
    ]
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'NVIDIA A10, 23028 MiB, 8.6, 570.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert gpus.find_gpus(tmp_path) == [
        "NVIDIA A10, 23028 MiB, compute capability 8.6, driver 570.1",
        "AMD display controller 1002:1234",
    ]
    program.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert "NVIDIA display controller 10de:1234" in gpus.find_gpus(tmp_path)

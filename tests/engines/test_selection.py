"""The selection, on the engines that are installed; engines that fail in ways no library here does are written out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines import EngineRecord, candidates, engine_names, engine_record
from ghostzoo.engines import selection as engine_selection
from ghostzoo.engines.base import Engine, EngineOptions, Output
from ghostzoo.engines.candidates import (
    Candidate,
    Discarded,
    Measured,
    keep_checked,
    keep_devices,
    keep_installed,
)
from ghostzoo.engines.selection import Selection, explain, open_engine, rank, select
from ghostzoo.errors import EngineUnavailableError, OptionError, UnknownEngineError
from tests.conftest import make_tiny_bundle
from tests.fixtures.engines import require_engine

pytestmark = pytest.mark.slow

ORT = engine_record("onnxruntime")


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GHOSTZOO_ENGINE")
    monkeypatch.setattr(candidates, "OPENING_SECONDS", 60.0)  # on a busy machine too, all are tried


def row(engine: str, milliseconds: float) -> Measured:
    return Measured(engine, "cpu", "1.0", 1, 1, milliseconds, 1e-6)


def test_the_decision_is_measured_once_and_kept(tiny_bundle: Bundle) -> None:
    options = EngineOptions(threads=1)
    engine, first = open_engine(tiny_bundle, "auto", options)
    engine.close()
    assert first.origin == "measured"
    assert (first.engine, first.device) == (engine.name, engine.device)
    assert {item.engine for item in first.measured} | {item.engine for item in first.discarded} == set(engine_names())
    assert [item.milliseconds for item in first.measured] == sorted(item.milliseconds for item in first.measured)
    assert all(item.milliseconds > 0 and item.relative_difference <= 1e-4 for item in first.measured)
    assert json.loads(json.dumps(first.to_dict()))["engine"] == first.engine
    engine, second = open_engine(tiny_bundle, "auto", options)
    engine.close()
    assert second == replace(first, origin="cached")


@pytest.mark.parametrize(
    "options",
    [EngineOptions(threads=2), EngineOptions(threads=1, batch_size=4), EngineOptions(threads=1, device="cpu")],
)
def test_other_options_are_another_decision(tiny_bundle: Bundle, options: EngineOptions) -> None:
    open_engine(tiny_bundle, "auto", EngineOptions(threads=1))[0].close()
    engine, selection = open_engine(tiny_bundle, "auto", options)
    engine.close()
    assert selection.origin == "measured"
    assert {item.batch_size for item in selection.measured} == {options.batch_size or 1}


def test_another_version_of_an_engine_is_another_decision(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    open_engine(tiny_bundle, "auto", EngineOptions(threads=1))[0].close()
    monkeypatch.setattr(EngineRecord, "versions", lambda self: {self.distributions[0]: "99"})
    engine, selection = open_engine(tiny_bundle, "auto", EngineOptions(threads=1))
    engine.close()
    assert selection.origin == "measured"


def test_another_model_is_another_decision(tiny_bundle: Bundle, tmp_path: Path) -> None:
    open_engine(tiny_bundle, "auto", EngineOptions(threads=1))[0].close()
    other = make_tiny_bundle(tmp_path / "tiny", seed=1)  # of the same name, with other weights
    engine, selection = open_engine(other, "auto", EngineOptions(threads=1))
    engine.close()
    assert selection.origin == "measured"


def test_another_accelerator_is_another_decision(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    open_engine(tiny_bundle, "auto", EngineOptions(threads=1))[0].close()
    monkeypatch.setattr(engine_selection, "_accelerators", lambda: ["/dev/nvidia0"])
    engine, selection = open_engine(tiny_bundle, "auto", EngineOptions(threads=1))
    engine.close()
    assert selection.origin == "measured"


def test_what_was_built_meanwhile_is_another_decision(tiny_bundle: Bundle, tmp_path: Path) -> None:
    open_engine(tiny_bundle, "auto", EngineOptions(threads=1))[0].close()
    (tmp_path / "cache" / "tensorrt").mkdir()
    (tmp_path / "cache" / "tensorrt" / "built").write_bytes(b"")
    engine, selection = open_engine(tiny_bundle, "auto", EngineOptions(threads=1))
    engine.close()
    assert selection.origin == "measured"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"engine": "gone"}', b"\xff"])
def test_a_senseless_decision_is_taken_again(tiny_bundle: Bundle, content: bytes, tmp_path: Path) -> None:
    open_engine(tiny_bundle, "auto", EngineOptions(threads=1))[0].close()
    (path,) = [path for path in (tmp_path / "cache" / "selection").iterdir() if path.suffix != ".lock"]
    path.write_bytes(zlib.crc32(content).to_bytes(4, "big") + content)
    engine, selection = open_engine(tiny_bundle, "auto", EngineOptions(threads=1))
    engine.close()
    assert selection.origin == "measured"


def test_who_names_an_engine_gets_it(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as clf:
        assert clf.selection.origin == "asked for"
    monkeypatch.setenv("GHOSTZOO_ENGINE", "onnxruntime")
    with ghostzoo.load(tiny_bundle.path, threads=1) as clf:
        assert (clf.selection.origin, clf.selection.engine) == ("environment", "onnxruntime")
    monkeypatch.setenv("GHOSTZOO_ENGINE", "onxruntime")
    with pytest.raises(UnknownEngineError, match="onnxruntime"):
        ghostzoo.load(tiny_bundle.path)
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as clf:
        assert clf.selection.origin == "asked for"


def test_options_of_one_engine_need_its_name(tiny_bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="name it"):
        ghostzoo.load(tiny_bundle.path, engine_options={"enable_profiling": False})


def test_a_cached_decision_imports_the_chosen_engine_alone(tiny_bundle: Bundle) -> None:
    script = (
        "import sys, ghostzoo, ghostzoo.engines.candidates\n"
        "ghostzoo.engines.candidates.OPENING_SECONDS = 60.0\n"
        f"clf = ghostzoo.load({str(tiny_bundle.path)!r}, threads=1)\n"
        "print(clf.selection.origin, clf.selection.engine, *sorted(set(sys.modules) & "
        "{'onnxruntime', 'openvino', 'tensorrt', 'onnx', 'huggingface_hub', 'paddle', 'ncnn', 'MNN', "
        "'ai_edge_litert', 'ghostzoo_native'}))\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ))
        for _ in range(2)
    ]
    assert runs[0].stdout.startswith("measured")
    origin, engine, *modules = runs[1].stdout.split()
    assert origin == "cached"
    assert modules == [{"native": "ghostzoo_native"}.get(engine, engine)]


class WrongEngine(Engine):
    """Answers quickly, and wrongly."""

    name = "wrong"

    @classmethod
    def devices(cls) -> list[str]:
        return ["cpu"]

    def _infer(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        return np.zeros((len(batch), 7), np.float32)

    def describe(self) -> dict[str, Any]:
        return {"version": "0"}

    def _release(self) -> None:
        pass


class SlowStart(WrongEngine):
    name = "slow"

    @classmethod
    def slow_start(cls, bundle: Bundle, options: EngineOptions) -> str | None:
        return "building takes minutes; build it before."


def record_of(kind: type[Engine], monkeypatch: pytest.MonkeyPatch) -> EngineRecord:
    record = EngineRecord(kind.name, "x", "X", ("numpy",), f"pip install {kind.name}")
    original_class, original_load = candidates.engine_class, EngineRecord.load_class
    monkeypatch.setattr(candidates, "engine_class", lambda name: kind if name == kind.name else original_class(name))
    monkeypatch.setattr(EngineRecord, "load_class", lambda self: kind if self is record else original_load(self))
    return record


@pytest.mark.parametrize(("kind", "reason"), [(WrongEngine, "golden check"), (SlowStart, "building takes minutes")])
def test_what_is_wrong_or_slow_to_start_is_discarded(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, kind: type[Engine], reason: str
) -> None:
    record = record_of(kind, monkeypatch)
    versions = {item.name: item.versions() for item in (ORT, record)}
    engine, selection = select(tiny_bundle, EngineOptions(threads=1), [record, ORT], versions)
    engine.close()
    assert selection.engine == "onnxruntime"
    (discarded,) = selection.discarded
    assert (discarded.engine, discarded.device) == (kind.name, "cpu")
    assert reason in discarded.reason


class Broken(WrongEngine):
    name = "broken"

    @classmethod
    def devices(cls) -> list[str]:
        raise OSError("libsomething.so.3: cannot open shared object file")


def test_a_broken_library_is_discarded_with_what_it_said(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_of(Broken, monkeypatch)
    versions = {item.name: item.versions() for item in (ORT, record)}
    engine, selection = select(tiny_bundle, EngineOptions(threads=1), [record, ORT], versions)
    engine.close()
    assert selection.discarded == (
        Discarded("broken", None, "OSError: libsomething.so.3: cannot open shared object file"),
    )


def test_when_time_is_up_no_further_engine_is_imported(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_of(Broken, monkeypatch)
    monkeypatch.setattr(candidates, "OPENING_SECONDS", 0.0)
    versions = {item.name: item.versions() for item in (ORT, record)}
    engine, selection = select(tiny_bundle, EngineOptions(threads=1), [ORT, record], versions)
    engine.close()
    assert [(item.engine, item.device) for item in selection.discarded] == [("broken", None)]
    assert "0 s were used up" in selection.discarded[0].reason
    assert not selection.complete


def test_when_time_is_up_each_further_device_is_named(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "OPENING_SECONDS", 0.0)
    monkeypatch.setattr(ORT.load_class(), "devices", classmethod(lambda cls: ["cpu"] * 3))
    engine, selection = select(tiny_bundle, EngineOptions(threads=1), [ORT], {ORT.name: ORT.versions()})
    engine.close()
    assert ["0 s were used up" in item.reason for item in selection.discarded] == [True] * 2


def test_measuring_ends_when_its_time_is_up(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    require_engine("openvino")
    monkeypatch.setattr(engine_selection, "MEASURING_SECONDS", 0.0)
    given: list[float] = []
    measure = engine_selection.measure
    monkeypatch.setattr(engine_selection, "measure", lambda *args: given.append(args[3]) or measure(*args))
    records = [ORT, engine_record("openvino")]
    versions = {item.name: item.versions() for item in records}
    select(tiny_bundle, EngineOptions(threads=1), records, versions)[0].close()
    assert given[0] <= 0


def test_a_decision_without_all_of_them_is_not_kept(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    require_engine("openvino")
    monkeypatch.setattr(candidates, "OPENING_SECONDS", 0.0)
    for _ in range(2):
        engine, selection = open_engine(tiny_bundle, "auto", EngineOptions(threads=1))
        engine.close()
        assert (selection.origin, selection.complete) == ("measured", False)
        assert "there was time for" in selection.reason


def test_when_none_is_left_the_cause_is_told_alone(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_of(WrongEngine, monkeypatch)
    missing = EngineRecord("missing", "x", "X", ("no-such-distribution",), "pip install missing")
    versions = {item.name: item.versions() for item in (missing, record)}
    with pytest.raises(EngineUnavailableError) as caught:
        select(tiny_bundle, EngineOptions(), [missing, record], versions)
    for part in ("tiny", "wrong on cpu", "golden check"):
        assert part in str(caught.value)
    assert "missing" not in str(caught.value)


def test_what_is_read_unchecked_waits_to_be_named() -> None:
    kept, discarded = keep_checked([engine_record(name) for name in engine_names()])
    assert [record.name for record in kept] == [name for name in engine_names() if name != "mnn"]
    (reason,) = discarded
    assert reason.engine == "mnn"
    assert "engine='mnn', for a model that you trust" in reason.reason


def test_engines_that_are_not_installed_are_discarded() -> None:
    missing = EngineRecord("missing", "x", "X", ("no-such-distribution",), "pip install missing")
    kept, discarded = keep_installed([ORT, missing], {"onnxruntime": {"onnxruntime": "1"}, "missing": {}})
    assert kept == [ORT]
    assert [(item.engine, item.device) for item in discarded] == [("missing", None)]
    assert "pip install missing" in discarded[0].reason


@pytest.mark.parametrize(
    ("options", "devices"),
    [
        (EngineOptions(), ["cpu", "cuda:0", "GPU"]),
        (EngineOptions(device="cpu"), ["cpu"]),
        (EngineOptions(device="gpu"), ["GPU"]),
        (EngineOptions(device="cuda"), ["cuda:0"]),
        (EngineOptions(device="GPU.0"), ["GPU"]),
        (EngineOptions(device="cuda:1"), []),
        (EngineOptions(threads=2), ["cpu"]),
        (EngineOptions(device="npu"), []),
        (EngineOptions(device="cuda:0", threads=2), []),
    ],
)
def test_devices_follow_the_options(options: EngineOptions, devices: list[str]) -> None:
    candidates = [Candidate("x", device) for device in ("cpu", "cuda:0", "GPU")]
    kept, discarded = keep_devices(candidates, options)
    assert [candidate.device for candidate in kept] == devices
    assert len(kept) + len(discarded) == 3
    assert all(item.reason.endswith(".") for item in discarded)


def test_a_further_import_must_pay() -> None:
    base = row("onnxruntime", 10.0)
    assert rank([row("openvino", 9.5), base])[0] == base
    assert rank([row("openvino", 8.5), base])[0].engine == "openvino"
    assert rank([row("a", 5.0), row("b", 4.9)])[0].engine == "b"
    assert "too little" in explain(base, [row("openvino", 9.5), base])
    assert "fastest" in explain(row("openvino", 5.0), [row("openvino", 5.0), base])
    assert "only one" in explain(base, [base])


def test_a_report_prints_its_figures_and_reasons() -> None:
    report = Selection("a", "cpu", "measured", "why", (row("a", 1.0),), (Discarded("b", None, "gone."),))
    assert str(report).splitlines() == [
        "a on cpu (measured): why",
        "   1.00 ms  a 1.0 on cpu, batch 1, 1 thread; differs by 1.0e-06 of the logits' scale",
        "         -  b: gone.",
    ]


def test_reports_survive_json() -> None:
    report = Selection("a", "cpu", "measured", "why", (row("a", 1.0),), (Discarded("b", None, "gone."),))
    assert Selection.from_json(json.dumps(report.to_dict()).encode()) == report


def test_any_of_a_librarys_distributions_is_found() -> None:
    record = EngineRecord("x", "x", "X", ("no-such-distribution", "numpy", "neither-this", "pytest"), "pip install x")
    assert record.versions() == {"numpy": np.__version__, "pytest": pytest.__version__}
    assert EngineRecord("x", "x", "X", ("no-such-distribution",), "pip install x").versions() == {}

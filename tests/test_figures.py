"""The figures in the texts are those that the benchmarks wrote; nothing between two marks is typed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figure_texts as texts
from benchmarks import figures

MARKS = [
    (path, name) for path in figures.TEXTS for _, name, _, _ in figures.MARKED.findall(path.read_text(encoding="utf-8"))
]
MACHINE = {
    "processor": "Some CPU",
    "instructions": ["AVX2", "AVX-512"],
    "cpus": 2,
    "libraries": {"onnxruntime": "1.32.0"},
}


@pytest.mark.parametrize(("path", "name"), MARKS, ids=[f"{path.stem}-{name}" for path, name in MARKS])
def test_a_text_has_the_figures_of_its_results(path: Path, name: str) -> None:
    found = {mark: text for _, mark, text, _ in figures.MARKED.findall(path.read_text(encoding="utf-8"))}
    try:
        expected = texts.RENDERERS[name]()
    except FileNotFoundError as error:
        name = Path(error.filename).name
        pytest.skip(f"there is no benchmarks/results/{name}: 'make figures' takes it, on an idle machine")
    assert found[name] == expected


def test_every_mark_is_ended_and_known() -> None:
    for path in figures.TEXTS:
        text = path.read_text(encoding="utf-8")
        begun = re.findall(r"<!-- figures: (\S+) -->", text)
        assert len(begun) == len(figures.MARKED.findall(text)) == text.count("<!-- end -->")
        assert set(begun) <= set(texts.RENDERERS)
    assert {name for _, name in MARKS} == set(texts.RENDERERS)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the results of benchmarks that were never run."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    return tmp_path


def write(folder: Path, name: str, content: dict[str, Any], **more: Any) -> None:
    facts = {"command": "x", "date": "2026-01-02", "machine": MACHINE, "figures": content, **more}
    (folder / f"{name}.json").write_text(json.dumps(facts))


def write_graph(folder: Path) -> None:
    rows = {}
    for place, width in enumerate(texts.WIDTHS):
        for batch in (1, 8):
            cells = {peer: {"median_ms": 2.0, "noise": 0.01, "ratio": 0.5 + place / 10} for peer in texts.PEERS}
            ours = {name: {"median_ms": 1.0, "ratio": 1.0} for name in ("ghostzoo onnxruntime", "ghostzoo openvino")}
            rows[f"GhostNet_{width}, batch {batch}"] = cells | ours
    write(folder, "graph", rows, peak_gflops=123.4)


def test_figures_are_written_where_there_are_results(results: Path) -> None:
    before = "a <!-- figures: folder -->old<!-- end --> b <!-- figures: network-range -->old<!-- end --> c"
    after, missing = figures.rendered(before)
    assert after == before
    assert set(missing) == {"folder", "network-range"}
    assert "folder.json" in missing["folder"]
    write_graph(results)
    write(results, "folder", {"GhostNet_x0_5": {"times": 3.26}, "GhostNet_x1_0": {"times": 3.44}})
    after, missing = figures.rendered(before)
    assert not missing
    assert ">goes through 3.3 times (x0_5) and 3.4 times (x1_0) as fast<" in after
    assert ">the network takes 0.50 to 0.70 of the time of what paddle2onnx exports, and 0.50 to 0.70 of" in after
    assert figures.rendered(after) == (after, {})


def test_tables_have_a_cell_for_each_figure(results: Path) -> None:
    write_graph(results)
    lines = texts.network().strip().splitlines()
    assert len(lines) == 2 + len(texts.PEERS)
    assert {line.count("|") for line in lines} == {8}
    assert lines[2] == "| paddle2onnx's graph in ONNX Runtime | 0.50 | 0.60 | 0.70 | 0.50 | 0.60 | 0.70 |"
    milliseconds = texts.network_milliseconds().strip().splitlines()
    assert milliseconds[2] == "| ghostzoo, ONNX Runtime | 1.00 | 1.00 | 1.00 |"
    assert "| ONNX Runtime, raw graph | 2.00 | 2.00 | 2.00 |" in milliseconds
    assert texts.machine() == (
        "Some CPU (AVX2, AVX-512), 2 usable CPUs, 123 GFLOP/s a core in a product of matrices, ONNX Runtime 1.32.0, "
        "2026-01-02"
    )


def test_the_picture_has_a_bar_for_each_of_ours_and_theirs(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    with pytest.raises(FileNotFoundError):
        figures.draw_speed(tmp_path / "speed.svg")
    write_graph(results)
    figures.draw_speed(tmp_path / "speed.svg")
    drawn = (tmp_path / "speed.svg").read_text(encoding="utf-8")
    figures.draw_speed(tmp_path / "speed.svg")
    assert (tmp_path / "speed.svg").read_text(encoding="utf-8") == drawn
    assert (drawn.count("fill: #0d9488"), drawn.count("fill: #9ca3af")) == (2, len(texts.PEERS))
    assert figures.rendered("<!-- figures: speed --><!-- end -->")[0].count("(docs/images/speed.svg)") == 1


def test_the_table_of_aims_takes_all_benchmarks(results: Path) -> None:
    write_graph(results)
    cells = {peer: {"ratio": 0.61} for peer in texts.PEERS}
    write(results, "end_to_end", cells)
    for name in ("folder", "overhead"):
        write(results, name, {f"GhostNet_{width}": {"times": 3.0, "ratio": 1.02} for width in texts.WIDTHS})
    write(results, "startup", {"import_ms": 7.2, "list_ratio": 0.96, "first_prediction_ratio": 0.97})
    memory = {"before_mb": 100.0, "early_mb": 101.0, "later_mb": 102.0}
    write(results, "memory", {"predictions": memory | {"count": 10000}, "folder": memory | {"count": 100000}})
    server = {"of_plain": 1.9, "cpu_ms": 2.0, "p99_ms": 150.0}
    servers = {"plain FastAPI": server | {"cpu_ms": 5.0}, "ghostzoo serve": server}
    for model in ("x1_0", "x0_5", "embedded"):
        write(results, f"serve-{model}", dict.fromkeys(("1", "8", "64"), servers))
    write(results, "soak", {"requests": 20000, "warm_mb": 150.0, "peak_mb": 160.0, "slowest_s": 1.0})
    text = texts.standing()
    assert {line.count("|") for line in text.strip().splitlines()} == {4}
    for part in (
        "0.50 / 0.60 / 0.70",
        "0.61 / 0.61 / 0.61",
        "3.0 / 3.0 times",
        "7 ms",
        "| 2.5 | 2 |",
        "20,000 requests",
    ):
        assert part in text


def test_layers_are_held_against_the_peak(results: Path) -> None:
    kinds = {"1x1 convolutions": {"seconds": 0.003, "operations": 6e8}, "adding": {"seconds": 0.001, "operations": 0.0}}
    raw = {"1x1 convolutions": {"seconds": 0.006, "operations": 6e8}}
    rows = {"needed": 4e8, "profiles": {"raw": raw, "ghostzoo": kinds}}
    content = {f"GhostNet_x1_3, batch {batch}": rows for batch in (1, 8)}
    write(results, "layers", content, peak={"gflops": 250.0, "memory": 43.0, "cache": 90.0})
    assert texts.layers().strip().splitlines()[2:] == [
        "| 1x1 convolutions | 3.00 | 75% | 200 | 80% | 3.00 | 75% | 200 | 80% |",
        "| adding | 1.00 | 25% |  |  | 1.00 | 25% |  |  |",
        "| all | 4.00 | 100% | 100 | 40% | 4.00 | 100% | 100 | 40% |",
    ]
    assert texts.layers_of_raw().startswith("The raw graph takes 6.00 ms to 4.00 at batch 1 and 6.00 ms to 4.00 at")
    assert texts.layers_of_raw().endswith("250 GFLOP/s in a product of matrices and 43 GB/s from memory")


def test_servers_and_start_up_have_a_row_each(results: Path) -> None:
    found = {"images_per_second": 508.4, "cpu_ms": 3.561, "p50_ms": 90.2, "p99_ms": 363.0}
    for model in ("x1_0", "x0_5", "embedded"):
        write(results, f"serve-{model}", {"64": {"plain FastAPI": found, "ghostzoo serve": found}})
    lines = texts.servers().strip().splitlines()[2:]
    assert len(lines) == 6
    assert lines[0] == "| plain FastAPI, x1_0 | 508 | 3.56 | 90 and 363 |"
    write(results, "startup", {"processes_ms": {"bare interpreter": 12.3, "import ghostzoo": 20.6}})
    assert texts.start_up().strip().splitlines()[2:] == ["| bare interpreter | 12 |", "| import ghostzoo | 21 |"]


def test_stages_add_up(results: Path) -> None:
    ours = {"decode": 900.0, "resize and normalise": 220.0, "network": 2900.0, "top 5": 100.0}
    theirs = {"decode": 900.0, "resize": 500.0, "normalise": 400.0, "network": 3900.0, "top 5": 110.0}
    write(results, "stages", {"original": theirs, "ghostzoo": ours, "batch": ours}, images_per_second=578.4)
    assert texts.stages().strip().splitlines()[2:] == [
        "| decode | 900 | 900 | 900 |",
        "| resize, normalise | 900 | 220 | 220 |",
        "| network | 3900 | 2900 | 2900 |",
        "| softmax, top 5 | 110 | 100 | 100 |",
        "| all | 5810 | 4120 | 4120 |",
    ]
    write(results, "folder", {"GhostNet_x1_0": {"images_per_second": {"ghostzoo": 515.4, "plain loop": 149.4}}})
    assert texts.stages_bound() == (
        "2 CPUs that did nothing else would classify 578 images a second, where `folder.py` measures 515 for x1_0, and "
        "149 for the plain loop, whose network has all CPUs"
    )


def test_guides_tell_what_was_measured_where(results: Path) -> None:
    ways = {"batch": {"images": 10000, "per_second": 400.4, "predict_per_second": 410.2, "ratio": 0.976}}
    write(results, "batch", ways, peak_gflops=250.1)
    assert texts.batch().strip().splitlines()[2:] == [
        "| batch | 10,000 | 400 | 410 | 0.98 |",
        "",
        "`x`, 2026-01-02, on Some CPU (AVX2, AVX-512), of which one core reaches 250 GFLOP/s in float32, 2 CPUs, the "
        "bundled model.",
    ]
    memory = {"count": 200000, "early_mb": 221.5, "later_mb": 224.3, "last_mb": 222.8}
    write(results, "memory", {"batch": memory})
    told = "(`x`, 2026-01-02): 222 MB after a tenth, 224 MB at most later, 223 MB at the end"
    assert texts.batch_memory() == f"Resident memory over 200,000 pictures {told}"
    measured = {"images_per_second": 60.4, "p50_ms": 8.1, "p95_ms": 57.9}
    simulated = {"images_per_second": 180.2, "p50_ms": 5.5, "p95_ms": 5.6}
    rows = {"1 clients": {"measured": measured, "simulated": simulated}}
    write(results, "sizing", rows, cpus=1.9, peak_gflops=250.1)
    lines = texts.sizing().strip().splitlines()
    assert lines[2] == "| 1 clients | 60 / 180 | 8 / 6 | 58 / 6 |"
    assert lines[-1].endswith("2 CPUs; the server and its clients had 1.90 of them.")


def test_a_benchmark_writes_where_it_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/benchmarks/graph.py", "--rounds", "3"])
    figures.save(None, {"a": 1})
    figures.save(tmp_path / "new" / "x.json", {"a": 1}, peak_gflops=5.0)
    content = json.loads((tmp_path / "new" / "x.json").read_text())
    assert content["command"] == "python benchmarks/graph.py --rounds 3"
    assert (content["figures"], content["peak_gflops"]) == ({"a": 1}, 5.0)
    assert {"processor", "cpus", "libraries", "load"} <= set(content["machine"])

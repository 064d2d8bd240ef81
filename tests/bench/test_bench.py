"""The benchmark measures what it says, and shows all of it: through its functions and through the command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from ghostzoo.bench import probe
from ghostzoo.bench.measure import BATCH_SIZES, THREADS, plan_cells, run_bench
from ghostzoo.bench.plot import draw
from ghostzoo.bench.results import Cell, Results, Timing
from ghostzoo.bench.sample_image import jpeg
from ghostzoo.bench.tables import compare, core_tables, photograph_notes, result_tables, to_markdown
from ghostzoo.bundle.folder import Bundle
from ghostzoo.catalog import DEFAULT_MODEL, get_model
from ghostzoo.cli import main
from ghostzoo.cli.console import table_lines
from ghostzoo.engines import engine_names
from ghostzoo.errors import InputError, UnknownModelError
from ghostzoo.fetch.options import FetchOptions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tiny_bundle: Bundle) -> Results:
    cells = plan_cells([str(tiny_bundle.path)], ["onnxruntime", "no-such-engine"], ["fp32"], [1, 2], [1, 2])
    return run_bench(cells, seconds=0.01)


def test_the_plan_is_that_of_the_original_tables() -> None:
    cells = plan_cells(["m"], ["e"], ["fp32"], THREADS, BATCH_SIZES)
    assert [(cell.threads, cell.batch_size) for cell in cells] == [(1, 1), (2, 1), (4, 1), (1, 4), (1, 8)]
    assert len(plan_cells(["m", "n"], ["e", "f"], ["fp32", "int8"], (1,), (1,))) == 8


def test_a_timing_summarises_its_durations() -> None:
    timing = Timing.of([0.010] * 90 + [0.020] * 10)
    assert timing.median_ms == pytest.approx(10)
    assert timing.p95_ms == pytest.approx(20)
    assert timing.noise == pytest.approx(0, abs=1e-9)
    assert Timing.of([0.01, 0.02, 0.03]).noise > 0.1


def test_every_cell_is_measured_or_left_out_with_its_reason(results: Results) -> None:
    assert [(item.cell.threads, item.cell.batch_size) for item in results.measurements] == [(1, 1), (2, 1), (1, 2)]
    assert len(results.left_out) == 3
    assert all("no engine named 'no-such-engine'" in reason for _, reason in results.left_out)
    for item in results.measurements:
        assert item.network.median_ms > 0
        assert item.end_to_end.median_ms > 0
        assert item.network.calls >= 3
        assert item.load_seconds is not None
        assert item.load_seconds > 0
        assert item.peak_memory is not None
        assert 20e6 < item.peak_memory < 2e9
        assert item.images_per_second == pytest.approx(1000 * item.cell.batch_size / item.end_to_end.median_ms)


def test_results_survive_json(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(results.to_json())
    assert Results.read(path) == results


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 1}', '{"format_version": 2}'])
def test_another_file_is_one_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"other\.json holds no results"):
        Results.read(path)
    with pytest.raises(InputError, match="cannot be read"):
        Results.read(tmp_path / "none.json")


def test_a_process_is_probed_although_downloads_are_drawn(tiny_bundle: Bundle) -> None:
    cells = plan_cells([str(tiny_bundle.path)], ["onnxruntime"], ["fp32"], [1], [1])
    (measurement,) = run_bench(cells, seconds=0, fetching=FetchOptions(progress=lambda *_: None)).measurements
    assert measurement.load_seconds is not None


def test_a_process_that_fails_tells_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert probe.probe({"model": str(tmp_path / "none"), "batch_size": 1}) == (None, None)
    assert "did not tell what that takes" in caplog.text


def test_memory_is_in_bytes_where_the_system_lists_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="Windows does not tell what a process had in memory")
    held = np.ones(2**24)  # 128 MiB of it
    monkeypatch.setattr(probe, "_STATUS", tmp_path / "as on a Mac")
    monkeypatch.setattr(sys, "platform", "freebsd")
    in_kib = probe._peak_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=held.nbytes))
    assert probe._peak_memory() == held.nbytes
    assert in_kib is not None
    assert held.nbytes < in_kib < 2**40
    monkeypatch.setattr(sys, "platform", "win32")
    assert probe._peak_memory() is None


def test_results_of_another_version_are_not_read(results: Results, tmp_path: Path) -> None:
    content = json.loads(results.to_json())
    path = tmp_path / "newer.json"
    for version in (0, 99, None):
        path.write_text(json.dumps(content | {"format_version": version}))
        with pytest.raises(InputError, match=r"newer\.json holds no results.*not an object with format_version"):
            Results.read(path)


def test_nothing_to_measure_is_an_error(tiny_bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"Nothing could be measured.*no engine named"):
        run_bench([Cell(str(tiny_bundle.path), "none", "fp32", 1, 1)], seconds=0)


def test_a_model_that_cannot_be_measured_holds_up_no_other(tiny_bundle: Bundle) -> None:
    good = Cell(str(tiny_bundle.path), "onnxruntime", "fp32", 1, 1)
    found = run_bench([Cell(DEFAULT_MODEL, "none", "fp32", 1, 1), good], seconds=0.01)
    assert [item.cell for item in found.measurements] == [good]


def test_a_reason_is_told_once_however_many_cells_have_it(tiny_bundle: Bundle) -> None:
    with pytest.raises(InputError) as caught:
        run_bench(plan_cells([str(tiny_bundle.path)], ["none"], ["fp32"], [1, 2], [1, 2]), seconds=0)
    assert str(caught.value).count("no engine named") == 1


def test_a_wrong_name_is_found_before_anything_is_measured(tiny_bundle: Bundle) -> None:
    steps: list[str] = []
    cells = plan_cells([str(tiny_bundle.path), "GhostNet_x10"], ["onnxruntime"], ["fp32"], [1], [1])
    with pytest.raises(UnknownModelError, match="Did you mean GhostNet_x1_0"):
        run_bench(cells, seconds=0, on_step=steps.append)
    assert not steps


def test_tables_mark_what_is_published(results: Results, tiny_bundle: Bundle) -> None:
    published = get_model("GhostNet_x0_5").published
    assert published is not None
    facts = replace(
        results.models[0],
        top1=published.top1,
        published_storage_mb=published.storage_mb,
        published_snapdragon855_ms={"1": 5.28, "2": 3.95},
        published_v100_ms={"1": 1.66},
    )
    shown = replace(results, models=(facts,))
    threads, batches, storage = result_tables(shown)
    assert [row[-1] for row in threads.rows] == ["5.28", "3.95"]
    assert [row[-1] for row in batches.rows] == ["1.66", "-"]
    assert threads.columns[-1] == "Snapdragon 855 ms, published"
    size = len(tiny_bundle.model())
    assert storage.rows == ((facts.name, "fp32", f"{size / 1e6:.2f}", "0.6688", "10"),)
    text = to_markdown(shown)
    assert "Left out: " in text
    assert "Published figures were not measured here" in text
    assert all(line.count("|") == len(threads.columns) + 1 for line in threads.to_markdown().splitlines()[2:])


def test_the_picture_has_points_and_bars(results: Results) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the results, is not installed here")
    known = replace(results, models=(replace(results.models[0], top1=0.7),))
    for each in (results, known):
        picture = cv2.imdecode(np.frombuffer(draw(each), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[1] > 1000
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_the_picture_shows_what_was_measured(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure", reason="matplotlib, which draws the results, is not installed")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    known, unmeasured = replace(results.models[0], top1=0.7), replace(results.models[0], name="other", top1=0.8)
    draw(replace(results, models=(known, unmeasured)))
    points, bars = drawn[0].axes
    fastest = results.measurements[0].network.median_ms
    assert [tuple(map(float, line.get_xydata()[0])) for line in points.lines] == [(fastest, 70.0)]
    assert [text.get_text() for text in bars.get_yticklabels()] == [results.models[0].name]
    assert [bar.get_width() for bar in bars.patches] == [fastest]


def test_the_name_of_the_slowest_model_is_inside(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure", reason="matplotlib, which draws the results, is not installed")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    first = results.measurements[0]
    noisy = replace(first.network, noise=2.0, median_ms=20.0)
    measured = replace(first, cell=replace(first.cell, model=DEFAULT_MODEL), network=noisy)
    facts = replace(results.models[0], name=DEFAULT_MODEL, top1=0.7)
    draw(replace(results, models=(facts,), measurements=(measured,)))
    drawn[0].draw_without_rendering()
    points = drawn[0].axes[0]
    (name,) = (text.get_window_extent() for text in points.texts if text.get_text().startswith(DEFAULT_MODEL))
    assert points.get_window_extent().count_contains(name.corners()) == 4
    assert [axes.get_xlim()[0] for axes in drawn[0].axes] == [0, 0]  # distances from it are what is compared
    assert points.get_xlim()[1] < 2 * noisy.median_ms, "the points are crammed together"


def test_each_step_is_told(tiny_bundle: Bundle) -> None:
    steps: list[str] = []
    model = str(tiny_bundle.path)
    run_bench(plan_cells([model], ["onnxruntime"], ["fp32"], [1], [1]), seconds=0.01, on_step=steps.append)
    assert (steps[0], steps[-1]) == (f"{model} onnxruntime fp32, 1 thread, batch 1", f"{model}: rounds")


def test_the_picture_names_the_whole_machine(results: Results) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the results, is not installed here")
    libraries = {f"a library with a long name, number {number}": "1.0" for number in range(8)}
    crowded = replace(results, machine={**results.machine, "libraries": libraries})
    picture = cv2.imdecode(np.frombuffer(draw(crowded), np.uint8), cv2.IMREAD_COLOR)
    assert (picture[:, [0, 1, -2, -1]] == 255).all(), "something is cut off at the left or the right"


def test_a_comparison_tells_noise_from_change(results: Results) -> None:
    first = results.measurements[0]
    quiet = replace(first, network=replace(first.network, noise=0.01), end_to_end=replace(first.end_to_end, noise=0.5))
    slower = replace(
        quiet,
        network=replace(quiet.network, median_ms=2 * quiet.network.median_ms),
        end_to_end=replace(quiet.end_to_end, median_ms=1.2 * quiet.end_to_end.median_ms),
    )
    old, new = replace(results, measurements=(quiet,)), replace(results, measurements=(slower,))
    (table,) = compare(new, old)
    assert table.rows[0][-2:] == ("2.000 slower", "1.200 no difference")
    assert compare(old, new)[0].rows[0][-2] == "0.500 faster"
    assert compare(replace(new, measurements=()), old) == []


def test_noise_and_few_calls_are_told_of(results: Results) -> None:
    good = Timing(1.0, 1.1, 0.02, 100)
    quiet = tuple(replace(item, network=good, end_to_end=good) for item in results.measurements)
    assert replace(results, measurements=quiet).warning is None
    noisy = replace(quiet[0], end_to_end=replace(good, noise=0.34))
    text = replace(results, measurements=(noisy, *quiet[1:])).warning
    assert text is not None
    assert text.startswith("1 of 3 rows mean little, with noise of up to 34 %.")
    rare = replace(quiet[0], network=replace(good, calls=3))
    assert "fewer than 10 calls" in str(replace(results, measurements=(rare,)).warning)
    assert text in to_markdown(replace(results, measurements=(noisy, *quiet[1:])))


def test_every_column_has_a_name_of_its_own(results: Results) -> None:
    for table in [*core_tables(results), *result_tables(results), *compare(results, results)]:
        assert len({*table.columns}) == len(table.columns)
        assert all(table.columns)
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_the_core_and_a_comparison_fit_eighty_columns(results: Results) -> None:
    """With the longest names and figures of five digits."""
    slow = Timing(12345.678, 23456.789, 9.99, 100)
    cell = Cell("a-model", max(engine_names(), key=len), "fp32", 128, 512)
    item = replace(results.measurements[0], cell=cell, network=slow, end_to_end=slow)
    run = replace(results, models=(replace(results.models[0], name="a-model"),), measurements=(item,))
    for table in [*core_tables(run), *compare(run, run)]:
        assert max(map(len, table_lines(table.columns, table.rows))) <= 80


def test_photographs_stand_beside_the_accuracy(results: Results) -> None:
    measured = get_model(DEFAULT_MODEL).measured
    assert measured is not None
    facts = replace(results.models[0], top1=measured.top1)
    assert measured.photographs in to_markdown(replace(results, models=(facts,)))
    assert photograph_notes(results.models) == []


def test_photographs_stand_below_a_wide_table() -> None:
    words = ["bench", "--wide", "--engine", "onnxruntime", "--threads", "1", "--batch-sizes", "1", "--seconds", "0"]
    shown = CliRunner().invoke(main, words).stdout.split()
    measured = get_model(DEFAULT_MODEL).measured
    assert measured is not None
    assert " ".join(shown).endswith(f"it recognised {measured.photographs}.")


def test_the_command_reports_and_compares(tiny_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the results, is not installed here")
    image = tmp_path / "photo.jpg"
    image.write_bytes(jpeg())
    command = [sys.executable, "-m", "ghostzoo", "bench", str(tiny_bundle.path), "--engine", "onnxruntime"]
    command += ["--threads", "1", "--batch-sizes", "1", "--seconds", "0", "--image", str(image), "--out", str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert {"bench.md", "bench.json", "bench.png"} <= {path.name for path in tmp_path.iterdir()}
    second = subprocess.run(
        [*command, "--compare", str(tmp_path / "bench.json"), "--json"], capture_output=True, text=True
    )
    assert second.returncode == 0, second.stderr
    assert len(json.loads(second.stdout)["measurements"]) == 1
    assert "network new/old" in (tmp_path / "bench.md").read_text()
    assert "network new/old" in second.stderr
    others = [*command[:4], "--engine", "onnxruntime", "--threads", "1", "--batch-sizes", "1", "--seconds", "0"]
    stranger = subprocess.run(
        [*others, "--precision", "int8", "--compare", str(tmp_path / "bench.json")], capture_output=True, text=True
    )
    assert (stranger.returncode, "no measurement in common" in stranger.stderr) == (1, True)
    wrong = subprocess.run([*command, "--threads", "0,x"], capture_output=True, text=True)
    assert wrong.returncode == 2

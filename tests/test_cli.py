"""The command line, as its user runs it: in a process of its own."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.network.architecture import Architecture
from tests.fixtures.networks import random_arrays, write_weights


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ghostzoo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **options)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, name in enumerate(["a.jpg", "b c.png", "dé 猫.jpg"]):
        pixels = np.full((80, 100, 3), 60 * index + 30, np.uint8)
        (folder / name).write_bytes(cv2.imencode(Path(name).suffix, pixels)[1].tobytes())
    return folder


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"ghostzoo {ghostzoo.__version__}\n")


@pytest.mark.parametrize("command", ["list", "info", "convert", "predict", "eval"])
def test_help_shows_examples(command: str) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    assert "Examples:" in result.stdout
    assert f"ghostzoo {command}" in result.stdout


def test_list_filters_by_wildcard() -> None:
    assert run("list").stdout.count("GhostNet_") == 6  # the embedded one is in the caption too
    assert run("list").stdout.count(".in1k ") == 13
    lines = run("list", "*x1_3*", "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["GhostNet_x1_3", "GhostNet_x1_3_ssld"]
    small = run("list", "--max-params", "4", "--min-top1", "0.7", "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in small] == ["repghostnet_080.in1k"]
    shown = run("list", "--family", "ghostnetv2", "--sort", "top1").stdout.splitlines()
    assert [line.split()[0] for line in shown[1:4]] == [f"ghostnetv2_{width}.in1k" for width in (160, 130, 100)]
    assert "leave one out" in run("list", "--min-top1", "0.9").stderr
    result = run("list", "nothing*")
    assert result.returncode == 1
    assert "GhostNet_x1_0" in result.stderr


def test_info_shows_a_catalog_model_and_a_bundle(tiny_bundle: Bundle) -> None:
    record = json.loads(run("info", "GhostNet_x1_0", "--json").stdout)
    assert record["published"]["top1"] == 0.7402
    facts = json.loads(run("info", tiny_bundle.path, "--json").stdout)
    assert facts["name"] == tiny_bundle.name
    assert facts["validation"]["paddle_comparison"] == "not run"
    result = run("info", "GhostNet_x9")
    assert result.returncode == 1
    assert "GhostNet_x0_5" in result.stderr


def test_predict_prints_a_table_for_people(tiny_bundle: Bundle, photos: Path) -> None:
    result = run("predict", photos / "a.jpg", "--model", tiny_bundle.path, "--top-k", 2)
    assert result.returncode == 0
    assert result.stderr == ""
    assert "a.jpg" in result.stdout
    assert result.stdout.count("class-") == 2


def test_predict_prints_json_lines_for_programs(tiny_bundle: Bundle, photos: Path) -> None:
    result = run("predict", photos, "--model", tiny_bundle.path, "--json", "--threads", 1, "--batch-size", 2)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["a.jpg", "b c.png", "dé 猫.jpg"]
    with ghostzoo.load(tiny_bundle.path, threads=1) as clf:
        expected = [[p.index for p in top] for top in clf.predict(photos)]
    assert [[p["index"] for p in row["predictions"]] for row in rows] == expected


def test_predict_prints_csv(tiny_bundle: Bundle, photos: Path) -> None:
    result = run("predict", f"{photos}/*.png", "--model", tiny_bundle.path, "--csv", "--top-k", 3)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert {Path(row["image"]).name for row in rows} == {"b c.png"}


def test_unreadable_images_are_reported_others_classified(tiny_bundle: Bundle, photos: Path) -> None:
    missing = photos / "missing.jpg"
    result = run("predict", missing, photos / "a.jpg", photos / "b c.png", "--model", tiny_bundle.path, "--json")
    assert result.returncode == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert "error" in rows[0]
    assert all("predictions" in row for row in rows[1:])
    assert len(rows) == 3
    errors = result.stderr.splitlines()
    assert len(errors) == 2
    assert "missing.jpg" in errors[0]
    assert errors[1] == "1 of 3 images could not be read."


def test_errors_are_one_line_and_debug_shows_the_traceback(tmp_path: Path, photos: Path) -> None:
    result = run("predict", photos / "a.jpg", "--model", tmp_path / "absent")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    result = run("predict", photos / "a.jpg", "--model", tmp_path / "absent", "--debug")
    assert result.returncode != 0
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["predict"], ["predict", "a.jpg", "--model", "m", "--top-k", "0"], ["convert"], ["nonsense"], ["list", "--nope"]],
)
def test_wrong_usage_is_exit_status_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert "Usage:" in result.stderr


def test_convert_makes_a_bundle_that_predicts(tmp_path: Path, photos: Path) -> None:
    weights = write_weights(tmp_path / "mine.pdparams", random_arrays(Architecture.of(0.25, 3)))
    labels = tmp_path / "labels.txt"
    labels.write_text("2 bird\n0 cat\n1 dog, hound\n", encoding="utf-8")
    out = tmp_path / "a folder" / "mine"
    options = ["--name", "mine", "--weights", weights, "--labels", labels, "--resize-short", 64, "--crop-size", 64]
    result = run("convert", *options, "--out", out)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    again = run("convert", *options, "--out", out)
    assert again.returncode == 1
    assert "overwrite" in again.stderr
    assert run("convert", *options, "--out", out, "--overwrite").returncode == 0
    rows = json.loads(run("predict", photos / "a.jpg", "--model", out, "--json").stdout)
    assert {p["label"] for p in rows["predictions"]} == {"cat", "dog, hound", "bird"}


def test_convert_says_which_network_it_takes(tmp_path: Path) -> None:
    arrays = random_arrays(Architecture.of(0.1, 2))
    both = {f"{network}.{key}": array for network in ("Teacher", "Student") for key, array in arrays.items()}
    labels = tmp_path / "labels.txt"
    labels.write_text("猫\r\n狗\r\n", encoding="gbk")
    options = ["--name", "mine", "--labels", labels, "--resize-short", 32, "--crop-size", 32]
    weights = write_weights(tmp_path / "both.pdparams", both)
    refused = run("convert", *options, "--weights", weights, "--out", tmp_path / "out")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "'Teacher.', 'Student.'; choose one, as in 'ghostzoo convert --prefix Student.'" in refused.stderr
    result = run("convert", *options, "--weights", weights, "--prefix", "Student.", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "read as GB18030" in result.stderr
    assert [label.label for label in Bundle.open(tmp_path / "out").labels] == ["猫", "狗"]
    one = write_weights(tmp_path / "one.pdparams", {f"module.{key}": array for key, array in arrays.items()})
    result = run("convert", *options, "--weights", one, "--out", tmp_path / "one")
    assert f"{one}: using the network with the prefix 'module.'" in result.stderr


def test_convert_says_which_image_size_it_assumed(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "mine.pdparams", random_arrays(Architecture.of(0.1, 1000)))
    options = ("--name", "mine", "--weights", weights)
    assumed = run("convert", *options, "--out", tmp_path / "assumed")
    assert assumed.returncode == 0
    assert "224 pixels, the centre of a shorter side of 256, are assumed" in assumed.stderr
    told = run("convert", *options, "--out", tmp_path / "told", "--crop-size", "160")
    assert len(told.stderr.splitlines()) == 1
    steps = Bundle.open(tmp_path / "told").preprocessing
    assert (steps.crop_size, steps.resize_short) == (160, 183)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_cannot_steer_the_terminal(encoding: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("0 \x1b[2Jcl\x9beared :cat: [bold]\n", encoding="utf-8")
    weights = write_weights(tmp_path / "w.pdparams", random_arrays(Architecture.of(0.1, 1)))
    bundle = ghostzoo.convert(weights, tmp_path / "bundle", name="strange", labels=labels)
    image, missing = tmp_path / "\x1b]0;title\x07 猫.png", tmp_path / "\x1b]0;title\x07.png"
    image.write_bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    for form in ([], ["--csv"], ["--json"]):
        result = run(
            *["predict", image, missing, "--model", bundle.path, *form],
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert result.returncode == 1
        assert "\x1b" not in result.stderr
        assert r"\x1b]0;title\x07.png" in result.stderr
        if form != ["--csv"]:  # which programs read, as it is
            assert "\x1b" not in result.stdout
        assert "eared :cat: [bold]" in result.stdout


def test_tables_in_a_pipe_fold_no_cell() -> None:
    url = ghostzoo.get_model("GhostNet_x1_3_ssld").archive_url
    assert url is not None
    assert url in run("info", "GhostNet_x1_3_ssld").stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, the disk that takes no more")
@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_a_full_disk_is_one_line(form: list[str], tiny_bundle: Bundle, photos: Path) -> None:
    command = [sys.executable, "-m", "ghostzoo", "predict", photos / "a.jpg", "--model", tiny_bundle.path, *form]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=buffered)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "No space left" in result.stderr


def test_convert_without_model_and_name_is_wrong_usage(tmp_path: Path) -> None:
    result = run("convert", "--weights", "w.pdparams", "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "--name" in result.stderr


def test_eval_measures_and_reports(tiny_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the report, is not installed here")
    data = tmp_path / "data"
    for index in (0, 4):
        (data / f"class-{index}").mkdir(parents=True)
        for number in range(3):
            cv2.imwrite(str(data / f"class-{index}" / f"{number}.png"), np.full((70, 70, 3), 40 * number, np.uint8))
    options = ["eval", "--model", tiny_bundle.path, "--data", data, "--threads", 1]
    result = run(*options, "--out", tmp_path / "report")
    assert result.returncode == 0, result.stderr
    assert "top-1" in result.stdout
    assert (tmp_path / "report" / "confusion.png").is_file()
    facts = json.loads(run(*options, "--json", "--limit", 4).stdout)
    assert facts["images"] == 4
    (data / "class-0" / "broken.png").write_bytes(b"")
    result = run(*options, "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["images"] == 6
    assert "broken.png" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are a POSIX facility")
def test_many_images_show_a_progress_bar_on_a_terminal_only(tiny_bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    import pty

    command = [sys.executable, "-m", "ghostzoo", "predict", "--model", str(tiny_bundle.path), "--json"]
    for number in range(12):
        (tmp_path / f"{number}.jpg").write_bytes((photos / "a.jpg").read_bytes())
    command.append(str(tmp_path))
    terminal, child = pty.openpty()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=child, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(child)
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
        shown = b""
        try:
            while block := os.read(terminal, 4096):
                shown += block
        except OSError:  # the other end is closed
            pass
    os.close(terminal)
    assert len(lines) == 12
    assert all(json.loads(line)["predictions"] for line in lines)
    assert b"12/12" in shown
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""

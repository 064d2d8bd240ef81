"""What people see: on terminals of several widths and in pipes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ghostzoo.bundle.folder import Bundle
from ghostzoo.cli.console import table_lines
from ghostzoo.cli.results import TableWriter
from ghostzoo.predictions import Prediction
from tests.fixtures.terminal import run_on_terminal, screen

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are a POSIX facility")

BAR = "━"
LONG = "/a-long/" + "x" * 150 + "/path.jpg"
WHILE_BARS_STAND = f"""
import logging, sys, click
from ghostzoo.cli.bars import download_bar, progress, steps
from ghostzoo.cli.console import echo, print_table

@click.command()
def main():
    download = download_bar()
    with steps(2) as on_step:
        on_step("first")
        download("model", 10, 100)
        logging.getLogger("ghostzoo").warning("trying {LONG} again")
        echo("result {LONG}")
        echo("Error: {LONG}", err=True)
        on_step("second")
    download("other", 10, None)  # ends without a word, as where the connection breaks
    print_table(["model", "folder"], [["other", {LONG!r}]])
    with progress(20, "evaluating") as advance:
        for _ in range(20):
            advance()
    echo("the end")

main()
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(12):
        cv2.imwrite(str(folder / f"photo-{index:02}.png"), np.full((70, 80, 3), 20 * index, np.uint8))
    return folder


def predict(*arguments: object) -> list[object]:
    return ["-m", "ghostzoo", "predict", "--threads", 1, *arguments]


def test_the_terminal_of_these_tests_shows_what_a_real_one_does() -> None:
    assert screen("bar 1\r\x1b[2Kresult\r\nbar 2\r\n\x1b[1A\x1b[2Kdone", 80) == "result\ndone"
    assert screen("\x1b[1mabcdef\x1b[0m", 4) == "abcd\nef"


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_lines_stand_above_bars_whole_and_alone(columns: int) -> None:
    shown, _ = run_on_terminal(["-c", WHILE_BARS_STAND], columns)
    for line in (f"trying {LONG} again", f"result {LONG}", f"Error: {LONG}", f"other  {LONG}", "the end"):
        wrapped = "\n".join(line[start : start + columns] for start in range(0, len(line), columns))
        assert f"\n{wrapped}\n" in f"\n{shown}\n"
    bars = [line for line in shown.splitlines() if BAR in line or "20/20" in line]
    assert bars
    assert not any(word in line for line in bars for word in ("xx", "end", "model", "bytes"))  # no download's, either


@pytest.mark.parametrize(("columns", "classes"), [(20, 1), (80, 4), (140, 5)])
def test_several_images_are_a_line_each(columns: int, classes: int, tiny_bundle: Bundle, photos: Path) -> None:
    shown, _ = run_on_terminal(predict(".", "--model", tiny_bundle.path), columns, cwd=photos)
    if columns == 20:  # too narrow for one class
        shown = shown.replace(" \n", " ").replace("\n", "")
        assert shown.count("photo-") == shown.count("class-") == 12
        return
    lines = shown.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"photo-{index:02}.png" for index in range(12)]
    assert {line.count("class-") for line in lines} == {classes}


def test_classes_that_were_asked_for_are_not_left_out(tiny_bundle: Bundle, photos: Path) -> None:
    shown, _ = run_on_terminal(predict(".", "--model", tiny_bundle.path, "--top-k", 6), 80, cwd=photos)
    assert shown.replace("\n", "").count("class-") == 72


def test_a_bar_on_stderr_leaves_stdout_alone(tiny_bundle: Bundle, photos: Path) -> None:
    command = predict(photos, "--model", tiny_bundle.path)
    shown, written = run_on_terminal(command, 80, stdout_too=False)
    assert "12/12" in shown
    lines = written.splitlines()
    assert [line.split("  ")[0] for line in lines] == [str(path) for path in sorted(photos.iterdir())]
    assert all(line.count("class-") == 5 and line == line.rstrip() for line in lines)
    few = predict(*sorted(photos.iterdir())[:7], "--model", tiny_bundle.path)
    assert "7/7" not in run_on_terminal(few, 80, stdout_too=False)[0]


def test_one_image_is_a_table_without_empty_columns(tiny_bundle: Bundle, photos: Path) -> None:
    command = predict("photo-03.png", "--model", tiny_bundle.path, "--top-k", 2)
    written = run_on_terminal(command, 80, stdout_too=False, cwd=photos)[1]
    lines = written.splitlines()
    assert [line.split() for line in lines[:2]] == [["photo-03.png"], ["score", "class", "label"]]
    assert len(lines) == 4
    assert all(line == line.rstrip() for line in lines)
    for columns in (40, 140):
        assert run_on_terminal(command, columns, cwd=photos)[0] == written.rstrip("\n")


def test_help_uses_a_wide_terminal_while_lines_read_well() -> None:
    shown, _ = run_on_terminal(["-m", "ghostzoo", "predict", "--help"], 300)
    assert 80 < max(map(len, shown.splitlines())) <= 100


def test_one_unreadable_image_is_one_line(tmp_path: Path) -> None:
    for names in (["gone.jpg"], ["gone.jpg", "lost.jpg"]):
        shown, _ = run_on_terminal(["-m", "ghostzoo", "predict", *names], 80, cwd=tmp_path)
        lines = [line.split(":")[0] for line in shown.splitlines()]
        assert lines == ["Error", *(["Error", "2 of 2 images could not be read."] if len(names) > 1 else [])]


def test_wordnet_ids_stand_before_the_labels_that_are_long(capsys: pytest.CaptureFixture[str]) -> None:
    label = "a label, with synonyms that do not fit in a line of the terminal, " * 3
    predictions = [Prediction(1, label.strip(), 0.75, "n00000001"), Prediction(22, "short", 0.25, "n00000002")]
    TableWriter(sys.stdout).write("cat.jpg", predictions)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  score  class  wnid       label",
        f"0.75000      1  n00000001  {label.strip()}",
        "0.25000     22  n00000002  short",
    ]


@pytest.mark.slow
def test_a_benchmark_shows_tables_below_its_bar(tiny_bundle: Bundle, tmp_path: Path) -> None:
    command = ["-m", "ghostzoo", "bench", tiny_bundle.path, "--engine", "onnxruntime", "--engine", "none"]
    command += ["--threads", 1, "--batch-sizes", "1,2", "--seconds", 0]
    shown, _ = run_on_terminal(command, 80)
    bar = shown.splitlines()[0]
    assert BAR in bar
    assert "5/5" in bar
    flat = shown.replace("\n", "")
    assert f"{tiny_bundle.path} on " in flat
    assert flat.count("no engine named") == 1  # though two cells were left out for it
    assert "rows mean little" in flat
    wide, _ = run_on_terminal([*command, "--wide"], 300)
    assert "Snapdragon 855 ms, published" in wide


def test_a_folder_that_was_pulled_is_named_whole(tiny_bundle: Bundle, tmp_path: Path) -> None:
    shown, _ = run_on_terminal(["-m", "ghostzoo", "pull", tiny_bundle.path], 40)
    assert shown.replace("\n", "").endswith(f" folder  {tiny_bundle.path}")  # where the line breaks, one space is left


def test_sentences_are_broken_between_words_only() -> None:
    command = ["-m", "ghostzoo", "info", "GhostNet_x0_5_cifar10"]
    plain = run_on_terminal(command, 60, stdout_too=False)[1]
    assert max(map(len, plain.splitlines())) > 100
    assert run_on_terminal(command, 60)[0].split() == plain.split()


def test_tables_are_laid_out_by_the_width_of_characters() -> None:
    rows = [["猫", "9", "x"], ["\x1b[2J", "1,000", ""]]
    assert table_lines(["name", "number", ""], rows) == [
        "name     number",
        "猫            9  x",
        r"\x1b[2J   1,000",
    ]
    assert table_lines(["a", "b"], []) == ["a  b"]
    assert table_lines(["a", "figure"], [["x", "1.5"], ["y", "-"], ["z", ""]]) == [
        "a  figure",
        "x     1.5",
        "y       -",
        "z",
    ]

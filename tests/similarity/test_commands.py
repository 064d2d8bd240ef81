"""``ghostzoo index``, ``search`` and ``dedup``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ghostzoo.bundle.folder import Bundle
from ghostzoo.cli import main
from tests.similarity.test_duplicates import add_copies


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "cache"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--engine", "onnxruntime"])


def test_index_and_search(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos.index"
    done = run("index", photos, "--out", out)
    assert done.exit_code == 0, done.output
    assert f"{out}: 15 pictures, 15 new, 0 dropped" in done.stdout
    (photos / "red" / "0.png").unlink()
    (photos / "bad.png").write_bytes(b"no picture")
    again = run("index", photos, "--out", out, "--json")
    assert again.exit_code == 1
    assert json.loads(again.stdout)["dropped"] == 1
    assert "bad.png" in again.stderr
    found = run("search", photos / "red" / "1.png", "--index", out, "-k", 2)
    head, first, *rest = found.stdout.splitlines()
    assert head.split() == ["score", "picture"]
    assert first.split() == ["1.0000", str(photos / "red" / "1.png")]
    assert len(rest) == 1
    lines = run("search", photos / "red", photos / "bad.png", "--index", out, "-k", 1, "--json")
    assert lines.exit_code == 1
    results = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [result["image"] for result in results[:5]] == [result["matches"][0]["path"] for result in results[:5]]
    assert "not an image in a supported format" in results[5]["error"]


def test_dedup_lists_groups_and_writes_a_report(photos: Path, tmp_path: Path) -> None:
    add_copies(photos)
    page = tmp_path / "report.html"
    done = run("dedup", photos, "--out", page)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "Group 1"
    assert "3 groups of pictures that are nearly the same, among 24" in done.stdout
    assert page.stat().st_size < 200_000
    (photos / "bad.png").write_bytes(b"no picture")
    lines = run("dedup", photos, "--json", "--threshold", "1")
    assert "1 of 25 images could not be read" in lines.stderr
    for line in lines.stdout.splitlines():
        assert all(Path(path).is_file() for path in json.loads(line)["pictures"])


def test_misuse_is_one_line(tiny_bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos.index"
    run("index", photos, "--out", out)
    for arguments, message in (
        (["search", photos / "cat.jpg", "--index", tmp_path / "no.index"], "'ghostzoo index' makes one"),
        (["search", photos / "cat.jpg", "--index", out, "--model", tiny_bundle.path], "not of tiny; load that one"),
        (["index", photos / "red", "--out", out], "choose another file, or overwrite it"),
        (["dedup", tmp_path / "missing"], "is not there; check the path"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stderr.splitlines()[-1].startswith("Error: ")

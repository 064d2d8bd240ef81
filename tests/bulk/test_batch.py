"""Pictures of any storage -> rows: each picture has one, whatever happens meanwhile."""

from __future__ import annotations

import http.server
import io
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import ghostzoo
from ghostzoo.bulk.columns import Task, column_of
from ghostzoo.bulk.sources import count_local
from ghostzoo.bundle.folder import Bundle
from ghostzoo.cli import main
from ghostzoo.cli.bars import describe_rate
from ghostzoo.errors import InputError, OptionError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed here; the extra batch has it")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed here; the extra batch has it")
fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed here; the extra batch has it")


def encode(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    return {f"{place}.png": encode(place) for place in range(11)} | {"broken.png": b"no picture", "z ü.png": encode(99)}


@pytest.fixture
def folder(pictures: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for place, (name, data) in enumerate(pictures.items()):
        (folder / ("sub" if place % 3 == 0 else ".") / name).write_bytes(data)
    (folder / "notes.md").write_text("no picture")
    return folder


@pytest.fixture
def run(tiny_bundle: Bundle, tmp_path: Path) -> Any:
    """Runs a batch and returns its rows by the last part of their names."""

    def run(source: Any, out: str = "out.parquet", **options: Any) -> dict[str, dict[str, Any]]:
        target = tmp_path / out
        ghostzoo.batch(source, target, model=tiny_bundle.path, engine="onnxruntime", **options)
        rows = read_rows(target)
        assert len({row["path"] for row in rows}) == len(rows)
        return {row["path"].split("/")[-1]: row for row in rows}

    return run


def read_rows(target: Path) -> list[dict[str, Any]]:
    if target.suffix == ".jsonl":
        return [json.loads(line) for part in sorted(target.glob("part-*")) for line in part.read_text().splitlines()]
    rows: list[dict[str, Any]] = pq.read_table(target).to_pylist()
    return rows


def test_rows_are_what_predict_says(run: Any, folder: Path, pictures: dict[str, bytes], tiny_bundle: Bundle) -> None:
    rows = run(folder, top_k=3)
    assert set(rows) == set(pictures)
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime") as classifier:
        for name, data in pictures.items():
            row = rows[name]
            if name == "broken.png":
                assert row["error"]
                assert (row["index"], row["label"], row["indices"]) == (None, None, [])
                continue
            top = classifier(data, top_k=3)
            assert row["indices"] == [each.index for each in top]
            assert row["labels"] == [each.label for each in top]
            assert row["scores"] == pytest.approx([each.score for each in top], abs=1e-6)
            assert (row["index"], row["label"], row["error"]) == (top[0].index, top[0].label, None)
            assert row["model_sha256"] == tiny_bundle.model_hash()
            assert (row["model"], row["ghostzoo_version"]) == ("tiny", ghostzoo.__version__)


def test_the_command_tells_what_it_did_as_json(folder: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    options = ["--model", str(tiny_bundle.path), "--engine", "onnxruntime", "--out", str(tmp_path / "out.jsonl")]
    done = CliRunner().invoke(main, ["batch", str(folder), *options, "--json"])
    facts = json.loads(done.stdout)
    assert (facts["pictures"], facts["unreadable"], facts["done_before"]) == (13, 1, 0)


def test_json_lines_say_the_same(run: Any, folder: Path) -> None:
    expected, found = run(folder), run(folder, "out.jsonl", rows_per_part=4)
    for name, row in found.items():
        assert row["scores"] == pytest.approx(expected[name]["scores"], abs=1e-6)
        assert {key: row[key] for key in row if "score" not in key} == {
            key: value for key, value in expected[name].items() if "score" not in key
        }


def test_embeddings_are_those_of_embed(run: Any, folder: Path, tiny_bundle: Bundle, pictures: dict[str, bytes]) -> None:
    plain, rows = run(folder), run(folder, "other.parquet", embeddings=True)
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime") as classifier:
        np.testing.assert_allclose(rows["0.png"]["embedding"], classifier.embed(pictures["0.png"])[0], atol=1e-6)
    assert rows["broken.png"]["embedding"] is None
    for name, row in rows.items():
        assert row["indices"] == plain[name]["indices"]
        assert row["scores"] == pytest.approx(plain[name]["scores"], abs=1e-5)


def make_sources(pictures: dict[str, bytes], place: Path) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    with tarfile.open(place / "shard.tar", "w") as tar:
        for name, data in pictures.items():
            for suffix, content in ((".png", data), (".cls", b"1")):
                member = tarfile.TarInfo(name.replace(".png", suffix))
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    yield "tar", place / "shard.tar", {}
    (place / "files").mkdir()
    for name, data in pictures.items():
        (place / "files" / name).write_bytes(data)
    yield "glob", str(place / "files/*.png"), {}
    ways = itertools.cycle(("files", f"{place}/files", f"file://{place}/files"))
    (place / "list.txt").write_text("".join(f"{way}/{name}\n" for way, name in zip(ways, pictures, strict=False)))
    yield "list", place / "list.txt", {}
    table = pa.table({"id": list(pictures), "jpeg": list(pictures.values())})
    pq.write_table(table, place / "bytes.parquet")
    yield "parquet", place / "bytes.parquet", {"column": "jpeg"}
    yield "table", table, {"column": "jpeg"}
    yield "paths", pa.table({"path": [str(place / "files" / name) for name in pictures]}), {}
    structs = [{"bytes": data, "path": name} for name, data in pictures.items()]
    yield "structs", pa.table({"image": structs}), {}
    yield "url", (place / "files").as_uri(), {}
    storage = fsspec.filesystem("memory")
    hidden = dict.fromkeys((".hidden.png", "_unfinished.png"), pictures["0.png"])
    storage.pipe({f"/pictures/{name}": data for name, data in {**pictures, **hidden}.items()})
    yield "storage", "memory://pictures", {}
    storage.rm("/pictures", recursive=True)


def test_every_kind_of_source_gives_the_same_rows(
    run: Any, folder: Path, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    expected = sorted((row["indices"], row["error"] is None) for row in run(folder).values())
    (tmp_path / "sources").mkdir()
    for kind, source, options in make_sources(pictures, tmp_path / "sources"):
        rows = run(source, f"{kind}.parquet", **options)
        errors = [row["error"] for row in rows.values()]
        assert sorted((row["indices"], row["error"] is None) for row in rows.values()) == expected, (kind, errors)


def test_a_second_run_does_only_what_is_new(run: Any, folder: Path, tmp_path: Path) -> None:
    first = run(folder, rows_per_part=4)
    (folder / "0.new.png").write_bytes(encode(7))  # before all that is there
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out.parquet").glob("part-*")}
    second = run(folder, resume=True)
    assert set(second) == {*first, "0.new.png"}
    for name, changed in before.items():
        assert (tmp_path / "out.parquet" / name).stat().st_mtime_ns == changed


@pytest.mark.slow
def test_a_killed_run_loses_and_repeats_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for place in range(400):
        (tmp_path / "many" / f"{place}.png").write_bytes(encode(place))
    command = [sys.executable, "-m", "ghostzoo", "batch", "many", "--out", "out.parquet", "--rows-per-part", "4"]
    command += ["--model", str(tiny_bundle.path), "--engine", "onnxruntime", "--json"]
    kills = 0
    for _ in range(20):
        with subprocess.Popen([*command, "--resume"], cwd=tmp_path, stdout=subprocess.PIPE) as process:
            parts = len(list((tmp_path / "out.parquet").glob("part-*")))
            while process.poll() is None and len(list((tmp_path / "out.parquet").glob("part-*"))) < parts + 30:
                time.sleep(0.002)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            elif process.returncode == 0:
                break
    assert kills >= 2
    rows = read_rows(tmp_path / "out.parquet")
    assert sorted(row["path"] for row in rows) == sorted(f"many/{place}.png" for place in range(400))


def test_a_part_that_is_not_listed_is_done_again(run: Any, folder: Path, tmp_path: Path) -> None:
    first = run(folder)
    part = tmp_path / "out.parquet/part-000000.parquet"
    part.with_name("part-000001.parquet").write_bytes(part.read_bytes())
    assert run(folder, resume=True) == first


def test_results_are_neither_mixed_nor_lost(run: Any, folder: Path, tmp_path: Path) -> None:
    run(folder, top_k=2)
    with pytest.raises(InputError, match=r"out.parquet has results already; resume goes on .* overwrite replaces"):
        run(folder, top_k=2)
    with pytest.raises(InputError, match=r"was begun with another embeddings and top_k"):
        run(folder, top_k=3, embeddings=True, resume=True)
    (tmp_path / "out.parquet/part-000000.parquet").write_bytes(b"x")
    with pytest.raises(InputError, match=r"part-000000.parquet is missing or was changed"):
        run(folder, top_k=2, resume=True)
    assert len(run(folder, top_k=3, overwrite=True)["0.png"]["indices"]) == 3
    (tmp_path / "mine.parquet").mkdir()
    (tmp_path / "mine.parquet/letter.txt").write_text("dear")
    with pytest.raises(InputError, match="that are no results of ghostzoo"):
        run(folder, "mine.parquet")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("missing", {}, r"missing is not there; check the path."),
        ("empty", {}, r"There are no pictures in .*empty; check"),
        (pa.table({"a": [1]}), {}, r"table has the columns a; say which has the pictures"),
        (pa.table({"a": [1]}), {"column": "b"}, r"table has no column 'b', but a"),
        (7, {}, r"int is no source of pictures"),
        ("nowhere://x/y", {}, r"nowhere://x/y cannot be opened: .*nowhere"),
        ("bad.tar", {}, r"bad.tar is damaged: "),
        ("bad.parquet", {}, r"bad.parquet cannot be read: "),
        (".", {"out": "out.csv"}, r"out.csv must end in .parquet or .jsonl"),
    ],
)
def test_misuse_is_told_in_a_sentence(
    source: Any, options: dict[str, Any], message: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("bad.tar", "bad.parquet"):
        (tmp_path / name).write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match=message) as error:
        run(source, **options)
    assert "\n" not in str(error.value)


MISSING = """
import importlib, sys
import ghostzoo
from ghostzoo.errors import GhostZooError

def tell(work, *names, **options):
    sys.modules.update(dict.fromkeys(names))  # as where they are not installed
    try:
        work(**options)
    except GhostZooError as error:
        print(error)

for source, library in (("s3://a/b", "s3fs"), ("gs://a/b", "gcsfs"), ("hf://datasets/a/b", "huggingface_hub")):
    tell(ghostzoo.batch, library, source=source, out="out.jsonl")
tell(ghostzoo.batch, "fsspec", source="s3://a/b", out="out.jsonl")
tell(ghostzoo.batch, "ray", source=sys.argv[1], out="out.jsonl", ray="auto")
tell(ghostzoo.batch, "pyarrow.parquet", source=sys.argv[1], out="out.parquet")
tell(importlib.import_module("ghostzoo.spark").classify_udf, "pyspark")
"""


@pytest.mark.slow
def test_what_is_not_installed_is_named(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MISSING, str(folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == [
        "s3://a/b needs s3fs, which is not installed; pip install 'ghostzoo[s3]'.",
        "gs://a/b needs gcsfs, which is not installed; pip install gcsfs.",
        "hf://datasets/a/b needs huggingface_hub, which is not installed; pip install huggingface_hub.",
        "s3://a/b needs fsspec, which is not installed; pip install 'ghostzoo[batch]'.",
        "Ray is not installed; pip install 'ghostzoo[ray]'.",
        "out.parquet needs pyarrow, which is not installed; pip install 'ghostzoo[batch]', "
        "or write to a name that ends in .jsonl.",
        "pyspark is not installed; pip install 'ghostzoo[spark]'.",
    ]


class Slow(http.server.BaseHTTPRequestHandler):
    """Answers when as many ask at the same time as are read ahead; a reader of one after the other gets nothing."""

    pictures: ClassVar[dict[str, bytes]]
    together: ClassVar[threading.Barrier]

    def do_GET(self) -> None:
        self.together.wait(60)
        data = self.pictures[self.path.rpartition("/")[2]]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class SlowServer(http.server.ThreadingHTTPServer):
    request_queue_size = 64


def test_pictures_of_a_slow_server_are_read_ahead(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp, with which fsspec reads URLs, is not installed here")
    Slow.pictures = {f"{place}.png": encode(place) for place in range(16)}
    Slow.together = threading.Barrier(8)
    with SlowServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls = "".join(f"http://127.0.0.1:{server.server_port}/{name}\n" for name in Slow.pictures)
        (tmp_path / "urls.txt").write_text(urls + "http://127.0.0.1:9/gone.png\n")
        rows = run(tmp_path / "urls.txt", readers=8)
        server.shutdown()
    errors = {name: row["error"] for name, row in rows.items()}
    assert errors == {**dict.fromkeys(Slow.pictures), "gone.png": errors["gone.png"]}
    assert "Connect" in errors["gone.png"]


def test_the_first_row_waits_for_few_pictures(tiny_bundle: Bundle, pictures: dict[str, bytes]) -> None:
    """By default: a batch is as large as is fast on CPUs, and its pictures are all in memory."""
    taken = []

    def endless() -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield pictures["0.png"]

    task = Task(tiny_bundle.path, load=(("engine", "onnxruntime"), ("threads", 1)))
    with closing(task.rows(endless(), workers=1)) as rows:
        assert next(rows).error is None
    task.classifier.close()
    assert len(taken) <= 16


def test_columns_are_null_where_a_picture_has_no_class(tiny_bundle: Bundle, pictures: dict[str, bytes]) -> None:
    """What Ray and Spark get; a task that has run goes to other processes without its model."""
    load = (("engine", "onnxruntime"), ("threads", 1))
    task = Task(tiny_bundle.path, top_k=2, load=load)
    best, second = task.classifier(pictures["0.png"], 2)
    wanted: dict[str, list[Any]] = {}
    for name, several in (("index", "indices"), ("label", "labels"), ("score", "scores")):
        wanted |= {name: [getattr(best, name), None], several: [[getattr(best, name), getattr(second, name)], []]}
    for each in (task, pickle.loads(pickle.dumps(task))):
        rows = list(each.rows([pictures["0.png"], b"no picture"], workers=1))
        each.classifier.close()
        assert [row.embedding for row in rows] == [None, None]  # nobody asked for them
        found = column_of(rows)
        nothing, reason = found.pop("error")
        assert nothing is None
        assert "image" in reason
        assert found == wanted
    strict = Task(tiny_bundle.path, min_score=1, load=load)
    (row,) = strict.rows([pictures["0.png"]], workers=1)
    strict.classifier.close()
    assert column_of([row])["label"] == [None]
    assert row.error is None


def test_a_run_that_fails_at_once_can_be_tried_again(run: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="There are no pictures"):
        run(tmp_path / "empty")
    assert len(run(folder)) == 13


def test_progress_tells_the_time_left(folder: Path, pictures: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    pq.write_table(pa.table({"bytes": [b"x"]}), tmp_path / "table.parquet")
    assert count_local([str(folder), str(tmp_path / "list.txt")]) == len(pictures) + 2
    for unknown in ("s3://bucket/x", str(tmp_path / "table.parquet"), str(tmp_path / "missing")):
        assert count_local([str(folder), unknown]) is None
    assert describe_rate(640, 1, 8, 1000) == "640 of 1,000 done, 80 a second, 0:00:04 left, 1 unreadable"
    assert describe_rate(640, 0, 8, None) == "640 done, 80 a second"


def test_numbers_are_checked(run: Any, folder: Path) -> None:
    for options in ({"top_k": 0}, {"rows_per_part": 0}, {"readers": True}, {"batch_size": 1.5}):
        with pytest.raises(OptionError, match=next(iter(options))):
            run(folder, **options)

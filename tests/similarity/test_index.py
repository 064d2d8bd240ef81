"""Indexes are exact, incremental, whole or not there, and data, wherever they come from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.classifier import Classifier
from ghostzoo.errors import EngineError, EngineUnavailableError, GhostZooError, IndexFileError, InputError, OptionError
from ghostzoo.similarity.index import BLOCK, Index
from ghostzoo.similarity.layout import FORMAT, IndexWriter
from ghostzoo.weights.safetensors import load_safetensors
from tests.fitting.conftest import write_picture
from tests.similarity.conftest import LONG_AGO


def write_index(path: Path, embeddings: np.ndarray, names: list[str] | None = None) -> Index:
    names = [f"{row}.jpg" for row in range(len(embeddings))] if names is None else names
    with path.open("wb") as file:
        writer = IndexWriter(file)
        for row, name in enumerate(names):
            writer.add(name, embeddings[row], row.to_bytes(16, "big"), bytes(32), (1, 1))
        writer.finish("model", "identity", path.parent)
    return Index.open(path)


@pytest.mark.parametrize("k", [1, 7, 500])
def test_search_is_exact(tmp_path: Path, k: int) -> None:
    rng = np.random.default_rng(0)
    embeddings = np.maximum(rng.normal(size=(BLOCK + 300, 1280)), 0).astype(np.float32)
    embeddings[[5, BLOCK + 5]] = embeddings[100]  # equal scores in two blocks: the first rows come first
    embeddings[200] = 0
    index = write_index(tmp_path / "x.index", embeddings)
    queries = np.concatenate([embeddings[100:101], rng.normal(size=(3, 1280)).astype(np.float32)])
    lengths = np.maximum(np.linalg.norm(embeddings.astype(np.float64), axis=1), 1e-30)
    cosines = queries.astype(np.float64) @ embeddings.T.astype(np.float64) / lengths
    cosines /= np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    for found, expected in zip(index.search(queries, k), cosines, strict=True):
        rows = [int(match.path.stem) for match in found]
        np.testing.assert_allclose([match.score for match in found], np.sort(expected)[::-1][:k], atol=1e-6)
        np.testing.assert_allclose(expected[rows], np.sort(expected)[::-1][:k], atol=1e-6)
        assert len({*rows}) == k
    assert [int(match.path.stem) for match in index.search(embeddings[100], 3)[0]] == [5, 100, BLOCK + 5]


def test_similar_pictures_of_a_folder(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    report = ghostzoo.build_index(classifier, photos, tmp_path / "photos.index")
    assert (len(report.index), report.new, report.dropped) == (15, 15, 0)
    found = classifier.similar(photos / "red" / "3.png", report.index, k=6)
    assert found[0].path == photos / "red" / "3.png"
    assert found[0].score == pytest.approx(1, abs=1e-6)
    assert {match.path.parent.name for match in found} == {"red"}
    assert classifier.similar(photos / "red" / "3.png", tmp_path / "photos.index", k=6) == found
    everything = classifier.similar(photos / "cat.jpg", report.index, k=100)
    assert len(everything) == 15
    names = [match.path.relative_to(photos).as_posix() for match in everything]
    embeddings = load_safetensors((tmp_path / "photos.index").read_bytes())["embeddings"]
    np.testing.assert_allclose(embeddings, report.index.embeddings)
    rows = {report.index.name(row): row for row in range(15)}
    np.testing.assert_allclose(
        embeddings[[rows[name] for name in names]],
        classifier.embed([photos / name for name in names]),
        rtol=1e-4,
        atol=1e-4,
    )


def test_only_what_is_new_or_changed_is_read_again(
    classifier: Classifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "photos.index"
    ghostzoo.build_index(classifier, photos, out)
    written = out.stat().st_mtime_ns
    decoded: list[bytes] = []
    read = Classifier.read_image
    monkeypatch.setattr(Classifier, "read_image", lambda self, image: decoded.append(image) or read(self, image))
    same = ghostzoo.build_index(classifier, photos, out)
    assert (same.new, same.dropped, len(decoded), out.stat().st_mtime_ns) == (0, 0, 0, written)

    (photos / "red" / "0.png").rename(photos / "moved.png")  # known by its content
    (photos / "red" / "1.png").unlink()
    write_picture(photos / "red" / "2.png", "blue", 90)  # changed
    write_picture(photos / "red" / "new.png", "red", 91)
    (photos / "bad.png").write_bytes(b"no picture")
    done = ghostzoo.build_index(classifier, photos, out)
    assert (done.new, done.dropped, len(done.index)) == (2, 2, 15)
    assert [error.source for error in done.unreadable] == ["bad.png"]
    assert len(decoded) == 3  # with the unreadable one
    fresh = ghostzoo.build_index(classifier, photos, tmp_path / "fresh.index").index
    by_name = {done.index.name(row): done.index.embeddings[row] for row in range(15)}
    for row in range(15):
        np.testing.assert_allclose(by_name[fresh.name(row)], fresh.embeddings[row], rtol=1e-4, atol=1e-4)


def test_a_change_within_the_clock_is_noticed(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    """A file that was just written may change again with the same size and time."""
    out, picture = tmp_path / "photos.index", photos / "red" / "0.png"
    picture.touch()
    written = picture.stat().st_mtime_ns
    ghostzoo.build_index(classifier, photos, out)
    data = bytearray(picture.read_bytes())
    other = (photos / "red" / "1.png").read_bytes()
    picture.write_bytes(other[: len(data)].ljust(len(data), b"\0"))
    os.utime(picture, ns=(written, written))
    done = ghostzoo.build_index(classifier, photos, out)
    assert done.new + len(done.unreadable) == 1


@pytest.mark.slow
def test_a_killed_run_leaves_the_old_index(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos.index"
    ghostzoo.build_index(classifier, photos, out)
    before = out.read_bytes()
    for seed in range(40):
        write_picture(photos / "more" / f"{seed}.png", "red", 100 + seed)
    code = (
        "import ghostzoo, os, signal, sys\n"
        "class Kill:\n"
        "    left = 30\n"
        "    def __call__(self):\n"
        "        self.left -= 1\n"
        f"        if not self.left: os.kill(os.getpid(), signal.{{}})\n"
        "clf = ghostzoo.load(engine='onnxruntime', threads=1)\n"
        f"ghostzoo.build_index(clf, {str(photos)!r}, {str(out)!r}, on_start=lambda _: Kill())\n"
    )
    killed = subprocess.run([sys.executable, "-c", code.format("SIGKILL")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert out.read_bytes() == before
    interrupted = subprocess.run([sys.executable, "-c", code.format("SIGINT")], check=False, capture_output=True)
    assert b"KeyboardInterrupt" in interrupted.stderr
    kept = len(Index.open(out))
    assert 15 < kept < 55  # an interrupt keeps what was done
    assert ghostzoo.build_index(classifier, photos, out).new == 55 - kept


def _cut(data: bytes) -> bytes:
    return data[:-1000]


def _empty(data: bytes) -> bytes:
    return b""


def _newer(data: bytes) -> bytes:
    return data.replace(b'"ghostzoo_index":"1"', b'"ghostzoo_index":"2"')


def _of_another_tool(data: bytes) -> bytes:
    return data.replace(b'"identity"', b'"identify"')


def _huge(data: bytes) -> bytes:
    return data.replace(b'"shape":[15,1280],', b'"shape":[9999999,1280],').replace(b"  ", b"", 1)


def _names(data: bytes) -> bytes:
    return data.replace(b"coffee.jpg", b"../../x.jp")


def _header(data: bytes) -> bytes:
    return data.replace(b'{"__metadata__"', b'["__metadata__"')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "damaged: its tensors have"),
        (_empty, "damaged"),
        (_newer, f"of format 2; this version of ghostzoo reads format {FORMAT}"),
        (_of_another_tool, "damaged: it was not written by ghostzoo"),
        (_huge, "damaged"),
        (_names, "checksum"),
        (_header, "no JSON object"),
    ],
)
def test_a_damaged_index_is_one_sentence(
    classifier: Classifier, photos: Path, tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    out = tmp_path / "photos.index"
    ghostzoo.build_index(classifier, photos, out)
    data = damage(out.read_bytes())
    assert data != out.read_bytes()
    out.write_bytes(data)
    with pytest.raises(IndexFileError, match=message):
        classifier.similar(photos / "cat.jpg", out)
    if data:
        with pytest.raises(IndexFileError):
            ghostzoo.build_index(classifier, photos, out)
    assert out.read_bytes() == data
    assert ghostzoo.build_index(classifier, photos, out, overwrite=True).new == 15


@pytest.mark.parametrize("names", [["a\0b.jpg", "c.jpg"], ["", "c.jpg"], []], ids=["more", "empty", "none"])
def test_each_picture_of_an_index_has_a_name(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match=f"it has {len(names)} pictures and other names"):
        write_index(tmp_path / "x.index", np.ones((len(names), 1280), np.float32), names)


def test_embeddings_that_changed_are_never_returned(tmp_path: Path) -> None:
    embeddings = np.random.default_rng(0).random((20, 1280), np.float32)
    write_index(tmp_path / "x.index", embeddings)
    data = (tmp_path / "x.index").read_bytes()
    for value in (np.nan, np.inf, 1e30, 50.0):
        wrong = embeddings[7].copy()
        wrong[3] = value
        (tmp_path / "x.index").write_bytes(data.replace(embeddings[7].tobytes(), wrong.tobytes()))
        with pytest.raises(IndexFileError, match="damaged: embeddings"):
            Index.open(tmp_path / "x.index").search(embeddings[7], 20)


def test_damage_that_an_update_meets_is_refused_or_replaced(
    classifier: Classifier, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "photos.index"
    index = ghostzoo.build_index(classifier, photos, out).index
    out.write_bytes(out.read_bytes().replace(index.embeddings[3].tobytes(), bytes(4 * 1280)))
    write_picture(photos / "new.png", "red", 99)
    with pytest.raises(IndexFileError, match="damaged: embeddings have changed"):
        ghostzoo.build_index(classifier, photos, out)
    assert ghostzoo.build_index(classifier, photos, out, overwrite=True).new == 16


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    embeddings = np.ones((1, 1280), np.float32)
    for name in ("../secret.jpg", "/etc/secret.jpg", "a/../../b.jpg"):
        index = write_index(tmp_path / "x.index", embeddings, [name])
        with pytest.raises(IndexFileError, match="leads out of the folder"):
            index.search(embeddings)
    with pytest.raises(IndexFileError, match="damaged: a name is no text"):
        replace(index, _names=b"\xff" + index._names[1:]).search(embeddings)


def test_an_index_of_another_model_is_refused(
    classifier: Classifier, tiny_bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "photos.index"
    ghostzoo.build_index(classifier, photos, out)
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as other:
        with pytest.raises(IndexFileError, match="of the model GhostNet_x0_5_cifar10, not of tiny; load that one"):
            other.similar(photos / "cat.jpg", out)
        with pytest.raises(IndexFileError, match="not of tiny"):
            ghostzoo.build_index(other, photos, out)
        assert ghostzoo.build_index(other, photos, out, overwrite=True).new == 15


def test_misuse_is_one_sentence(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos.index"
    (tmp_path / "none").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    (tmp_path / "letter.txt").write_text("dear reader")
    cases: list[tuple[type[GhostZooError], str, object]] = [
        (InputError, "is not there", lambda: ghostzoo.build_index(classifier, tmp_path / "missing", out)),
        (InputError, "is no folder", lambda: ghostzoo.build_index(classifier, photos / "cat.jpg", out)),
        (InputError, "There are no pictures in", lambda: ghostzoo.build_index(classifier, tmp_path / "none", out)),
        (InputError, "None of the pictures in", lambda: ghostzoo.build_index(classifier, tmp_path / "bad", out)),
        (IndexFileError, "is no index of pictures", lambda: classifier.similar(photos / "cat.jpg", photos / "cat.jpg")),
        (IndexFileError, "'ghostzoo index' makes one", lambda: classifier.similar(photos / "cat.jpg", out)),
        (IndexFileError, "exists and is no index", lambda: ghostzoo.build_index(
            classifier, photos, tmp_path / "letter.txt", overwrite=True)),
        (IndexFileError, "cannot be written", lambda: ghostzoo.build_index(classifier, photos, tmp_path / "no" / "x")),
    ]  # fmt: skip
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()  # type: ignore[operator]
    assert not out.exists()
    index = ghostzoo.build_index(classifier, photos, out).index
    with pytest.raises(IndexFileError, match=r"is an index of .*photos, not of .*red; choose another file"):
        ghostzoo.build_index(classifier, photos / "red", out)
    for k in (0, True, 1.5):
        with pytest.raises(OptionError, match="k must be"):
            classifier.similar(photos / "cat.jpg", index, k)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="shape"):
        index.search(np.zeros((2, 7), np.float32))
    with pytest.raises(InputError, match="several images"):
        classifier.similar(photos, index)


def test_a_failing_engine_loses_nothing(
    classifier: Classifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "photos.index"
    ghostzoo.build_index(classifier, photos, out)
    before = out.read_bytes()
    shutil.rmtree(photos / "blue")
    write_picture(photos / "new.png", "red", 99)
    engine = classifier.engines.for_many
    monkeypatch.setattr(engine, "run", lambda *_: (_ for _ in ()).throw(EngineError("It failed.")))
    with pytest.raises(EngineError):
        ghostzoo.build_index(classifier, photos, out)
    assert out.read_bytes() == before


def test_names_of_any_bytes_survive(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    strange = os.fsdecode(b"caf\xe9 \xf0\x9f\x90\x88\n.png")
    shutil.copy(photos / "red" / "0.png", photos / strange)
    out = tmp_path / "photos.index"
    ghostzoo.build_index(classifier, photos, out)
    paths = {match.path for match in classifier.similar(photos / "red" / "0.png", out, k=2)}
    assert paths == {photos / strange, photos / "red" / "0.png"}
    assert ghostzoo.build_index(classifier, photos, out).dropped == 0


def test_the_facts_of_an_index_are_json(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    report = ghostzoo.build_index(classifier, photos, tmp_path / "photos.index")
    assert json.loads(json.dumps(report.to_dict()))["pictures"] == 15
    assert report.index.times.max() == LONG_AGO


def test_approximate_search_finds_nearly_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="approximate search needs 'ghostzoo[search]'")
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(32, 1280))
    centres = rng.normal(size=(60, 32))
    vectors = (centres[rng.integers(0, 60, 3000)] + rng.normal(size=(3000, 32)) * 0.7) @ mix
    embeddings = np.maximum(vectors, 0).astype(np.float32)
    index = write_index(tmp_path / "x.index", embeddings)
    queries = embeddings[:200] + 0.01
    exact = index.search(queries, 10)
    found = index.search(queries, 10, approximate=True)
    rows = {match.path: match.score for match in exact[0]}
    for match in found[0]:
        assert rows.get(match.path, match.score) == pytest.approx(match.score, abs=1e-6)
    shared = [len({m.path for m in one} & {m.path for m in other}) for one, other in zip(exact, found, strict=True)]
    assert np.mean(shared) >= 9.5
    kept = list((tmp_path / "cache" / "search").iterdir())
    written = kept[0].stat().st_mtime_ns
    assert Index.open(tmp_path / "x.index").search(queries, 10, approximate=True) == found
    assert [path.stat().st_mtime_ns for path in (tmp_path / "cache" / "search").iterdir()] == [written]


def test_approximate_search_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    index = write_index(tmp_path / "x.index", np.ones((3, 1280), np.float32))
    with pytest.raises(EngineUnavailableError, match=r"pip install 'ghostzoo\[search\]', or search exactly"):
        index.search(np.ones((1, 1280), np.float32), approximate=True)

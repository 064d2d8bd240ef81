"""List files as other tools and systems write them."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import ghostzoo
from ghostzoo import InputError
from ghostzoo.bundle.folder import Bundle
from ghostzoo.evaluation import datasets
from ghostzoo.evaluation.datasets import open_dataset
from ghostzoo.evaluation.evaluate import evaluate, open_labelled

PHOTOS = ["a.png", "小狗 und/Hund b.png", "sub/c d.png"]
LABELS = [0, 3, 12]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(PHOTOS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture = np.full((8, 8, 3), 80 * index, np.uint8)
        (tmp_path / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return tmp_path


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "val_list.txt"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", ["{name} {label}", "{name}\t{label}", "{name} \t {label} ", "./{name} {label}"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk", "gb18030"])
def test_every_form_is_read_in_every_encoding(
    encoding: str, form: str, newline: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [form.format(name=name, label=label) + newline for name, label in zip(PHOTOS, LABELS, strict=True)]
    path = write(folder, "".join([*lines, newline]), encoding)
    dataset = open_dataset(path)
    assert [sample.label for sample in dataset.samples] == LABELS
    assert all(sample.path.is_file() for sample in dataset.samples)
    assert [f"{path} is not UTF-8 and was read as GB18030" in message for message in caplog.messages] == [
        True
    ] * encoding.startswith("gb")


@pytest.mark.skipif(os.sep == "\\", reason="backslashes divide folders in all names on Windows")
def test_backslashes_divide_folders(folder: Path) -> None:
    path = write(
        folder, "".join(f"{name} {label}\n" for name, label in zip(PHOTOS, LABELS, strict=True)).replace("/", "\\")
    )
    dataset = open_dataset(path)
    assert [sample.name for sample in dataset.samples] == PHOTOS
    assert all(sample.path.is_file() for sample in dataset.samples)
    (folder / "sub\\c d.png").write_bytes((folder / "a.png").read_bytes())  # a name like any other here
    assert [sample.name for sample in open_dataset(path).samples] == [*PHOTOS[:2], "sub\\c d.png"]


def test_an_unlabelled_list_needs_no_index(folder: Path) -> None:
    path = write(folder, "a.png\n小狗 und\\Hund b.png\nsub/c d.png\t12\n")
    dataset = open_dataset(path, labelled=False)
    assert [sample.name for sample in dataset.samples] == PHOTOS
    assert all(sample.read() for sample in dataset.samples)


def test_a_list_is_measured(folder: Path, tiny_bundle: Bundle) -> None:
    path = write(folder, f"{PHOTOS[0]}\t0\r\n{PHOTOS[1]}\t3\r\n".replace("/", "\\"), "gbk")
    with ghostzoo.load(tiny_bundle.path, threads=1) as classifier:
        result = evaluate(classifier, open_labelled(path, classifier.bundle.labels))
    assert (result.top1.total, result.unreadable) == (2, ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lists no images"),
        (b"a.png\n", r"line 1: expected '<path> <class index>', found 'a\.png'"),
        (b"a.png 0\n 3\n", "line 2: expected"),
        (b"a.png 0\nb.png -1\n", "line 2: expected"),
        (b"a.png 0\nb.png 1.0\n", "line 2: expected"),
        ("a.png 0\nb.png \u0661\n".encode(), "line 2: expected"),
        (b"a.png 100000000\n", "line 1: expected"),
        (b"a.png 0\ncaf\xe9.png 1\n", "is neither UTF-8 nor GB18030; save it as UTF-8"),
        (b"Gr\xfcn.png 1\n", "is neither UTF-8 nor GB18030"),
        (b"\xff\xfea", "is neither UTF-8 nor GB18030"),
    ],
)
def test_malformed_lists_are_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        open_dataset(path)
    assert str(path) in str(error.value)


def test_more_images_than_are_held_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = write(folder, "".join(f"{name} 0\n" for name in PHOTOS))
    with tarfile.open(folder / "data.tar", "w") as archive:
        for name in PHOTOS:
            archive.add(folder / name, f"class/{Path(name).name}")
    for path, verb in ((listed, "lists"), (folder / "data.tar", "holds")):
        monkeypatch.setattr(datasets, "MAX_IMAGES", 3)
        assert len(open_dataset(path).samples) == 3
        monkeypatch.setattr(datasets, "MAX_IMAGES", 2)
        with pytest.raises(InputError, match=f"{verb} more than 2 images; split it"):
            open_dataset(path)


def test_a_tar_of_one_class_is_read(folder: Path) -> None:
    with tarfile.open(folder / "data.tar", "w") as archive:
        archive.add(folder / "sub", "val/sub")
    assert open_dataset(folder / "data.tar").classes == ("sub",)

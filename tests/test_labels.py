from __future__ import annotations

import json
from pathlib import Path

import pytest

from ghostzoo.errors import LabelsError
from ghostzoo.labels import MAX_LABEL_FILE_BYTES, ClassLabel, imagenet_labels, read_labels, resolve_labels


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def names(labels: tuple[ClassLabel, ...]) -> list[str]:
    return [label.label for label in labels]


def test_imagenet_labels_are_the_facts(shared: Path) -> None:
    facts = json.loads((shared / "data" / "imagenet1k_classes.json").read_text())
    rows = facts if isinstance(facts, list) else facts["classes"]
    assert len(rows) == 1000
    for index, (row, label) in enumerate(zip(rows, imagenet_labels(), strict=True)):
        assert (row["index"], row["wnid"], row["label"]) == (index, label.wnid, label.label)


def test_imagenet_labels_are_a_thousand_different_synsets() -> None:
    labels = imagenet_labels()
    assert len({label.wnid for label in labels}) == len(labels) == 1000
    assert labels[281] == ClassLabel("tabby, tabby cat", "n02123045")
    assert all(label.wnid and label.wnid[0] == "n" and label.wnid[1:].isdecimal() for label in labels)


@pytest.mark.parametrize(
    "content",
    [
        "0 cat\n1 dog, hound\n2 青蛙\n",
        "0 cat\r\n1 dog, hound\r\n2 青蛙\r\n",
        "0 cat\r1 dog, hound\r2 青蛙",
        "2 青蛙\n0 cat\n\n1 dog, hound",
        "\ufeff0 cat\n1 dog, hound\n2 青蛙\n",
        "  0   cat \n01 dog, hound\n000000000000002 青蛙\n",
    ],
)
def test_lines_of_id_and_name_are_read(tmp_path: Path, content: str) -> None:
    assert names(read_labels(write(tmp_path / "labels ü.txt", content), 3)) == ["cat", "dog, hound", "青蛙"]


def test_only_line_ends_end_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.txt", "0 a\u2028b\n1 c\x85d\n2 e\x0cf\n")
    assert names(read_labels(path, 3)) == ["a\u2028b", "c\x85d", "e\x0cf"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 cat\n1\n2 frog\n", "line 2"),
        ("0 cat\n1 \n2 frog\n", "line 2"),
        ("0 cat\ndog\n", "line 2.*'dog'"),
        ("0 cat\n1\tdog\n2 frog\n", "line 2"),
        ("0 cat\n-1 dog\n", "line 2"),
        ("0 cat\n1.0 dog\n", "line 2"),
        ("0 cat\n\u0661 dog\n", "line 2"),
        ("0 cat\n² dog\n", "line 2"),
        ("0 cat\n3 dog\n", r"line 2: class id 3 is beyond the model's 3 classes \(0 to 2\)"),
        ("0 cat\n10000000000 dog\n", "line 2: class id 10000000000 is beyond"),
        ("0 cat\n" + "9" * 10_000 + " dog\n", "line 2: class id 9999.* is beyond"),
        ("0 cat\n1 dog\n1 hound\n", "line 3: class id 1 is named twice"),
        ("0 cat\n0000 dog\n", "line 2: class id 0 is named twice"),
        ("0 cat\n2 frog\n", "names 2 of 3 classes; missing ids: 1"),
        ("", "names 0 of 3 classes; missing ids: 0, 1, 2"),
        (b"\xff\xfe0\x00 \x00", "no UTF-8"),
        (b"0 caf\xe9\n", "no UTF-8 text .byte 5"),
    ],
)
def test_malformed_files_are_named_with_their_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path / "labels.txt", content)
    with pytest.raises(LabelsError, match=message) as error:
        read_labels(path, 3)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 500


def test_many_missing_ids_are_shortened(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"names 1 of 1000 classes; missing ids: 1, .*, 10 \.\.\."):
        read_labels(write(tmp_path / "labels.txt", "0 cat\n"), 1000)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"missing\.txt.*check the path"):
        read_labels(tmp_path / "missing.txt", 3)
    with pytest.raises(LabelsError, match="Cannot read the label file"):
        read_labels(tmp_path, 3)
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(MAX_LABEL_FILE_BYTES + 1)
    with pytest.raises(LabelsError, match="is it a label file"):
        read_labels(tmp_path / "huge.txt", 3)


def test_labels_are_resolved_from_what_the_caller_has(tmp_path: Path) -> None:
    assert resolve_labels(None, 1000) is imagenet_labels()
    assert names(resolve_labels(["a", "b"], 2)) == ["a", "b"]
    path = write(tmp_path / "labels.txt", "0 cat\n1 dog\n")
    assert names(resolve_labels(path, 2)) == names(resolve_labels(str(path), 2)) == ["cat", "dog"]


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LabelsError, match=r"10 classes.*pass labels"):
        resolve_labels(None, 10)
    with pytest.raises(LabelsError, match="3 labels were passed for 2 classes"):
        resolve_labels(["a", "b", "c"], 2)

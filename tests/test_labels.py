from __future__ import annotations

import json
from pathlib import Path

import pytest

from ghostzoo.converter import convert
from ghostzoo.errors import GhostZooError, LabelsError, OptionError
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


NAMES = ["雏菊", "月季 花", "rose, wild", "玫瑰", "tulip"]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("form", ["{index} {name}", "{index}\t{name}", "{index}\t {name}", "{name}", "{name} \t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk", "gb18030"])
def test_every_form_is_read_in_every_encoding(
    encoding: str, form: str, newline: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [form.format(index=index, name=name) + newline for index, name in enumerate(NAMES)]
    path = write(tmp_path / "labels.txt", "".join([*lines, newline]).encode(encoding))
    assert names(read_labels(path, 5)) == names(read_labels(path)) == NAMES
    assert len(caplog.messages) == 2 * encoding.startswith("gb")
    assert all(f"{path} is not UTF-8 and was read as GB18030" in message for message in caplog.messages)


def test_letters_beyond_gbk_and_a_mark_are_read(tmp_path: Path) -> None:
    text = "\ufeff0 𠮷野家的猫\n1 狗\n"
    assert names(read_labels(write(tmp_path / "labels.txt", text.encode("gb18030")), 2)) == ["𠮷野家的猫", "狗"]
    for encoding in ("utf-16-le", "utf-16-be"):
        assert names(read_labels(write(tmp_path / "labels.txt", text.encode(encoding)), 2)) == ["𠮷野家的猫", "狗"]


def test_numbers_alone_are_names(tmp_path: Path) -> None:
    assert names(read_labels(write(tmp_path / "digits.txt", "7\n8\n9\n"), 3)) == ["7", "8", "9"]


# Exports of PaddleX and PaddleClas

EXPORT = """
Global:
  model_name: GhostNet_x1_0
Hpi:
  backend_configs:
    paddle_infer:
      trt_dynamic_shapes: &id001
        x: [[1, 3, 224, 224], [8, 3, 224, 224]]
    tensorrt:
      dynamic_shapes: *id001
PostProcess:
  Topk:
    topk: 3
    label_list:
    - 雏菊
    - no
    - 0
    - 1e3
    - "rose: wild"
"""


@pytest.mark.parametrize("name", ["inference.yml", "Inference.YAML"])
def test_labels_of_an_export_are_read_as_written(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, EXPORT)
    assert names(read_labels(path, 5)) == names(read_labels(path)) == ["雏菊", "no", "0", "1e3", "rose: wild"]
    assert names(resolve_labels(path, 5))[0] == "雏菊"
    with pytest.raises(LabelsError, match="names 5 classes, the model has 4"):
        read_labels(path, 4)


def test_a_multi_label_export_needs_the_option(tmp_path: Path) -> None:
    path = write(tmp_path / "inference.yml", "PostProcess: {MultiLabelThreshOutput: {label_list: [cat, dog]}}")
    assert [label.label for label in read_labels(path, 2)] == ["cat", "dog"]
    with pytest.raises(OptionError, match="multi-label model, whose scores are sigmoids"):
        convert(tmp_path / "absent.pdparams", tmp_path / "out", name="tags", labels=path)
    with pytest.raises(GhostZooError, match="absent"):
        convert(tmp_path / "absent.pdparams", tmp_path / "out", name="tags", labels=path, multi_label=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no label_list"),
        ("- a", "has no label_list"),
        ("PostProcess: Topk", "has no label_list"),
        ("PostProcess: {Topk: }", "has no label_list"),
        ("PostProcess: {Topk: {label_list: []}}", "has no label_list"),
        ("PostProcess: {Topk: {label_list: [[a], b]}}", "has no label_list"),
        ("PostProcess: {Topk: {label_list: {0: a}}}", "has no label_list"),
        ("PostProcess: {Topk: {class_id_map_file: ../names.txt}}", r"in another file, '\.\./names\.txt'; pass that"),
        ("a: b: c", "not readable YAML: mapping values are not allowed"),
        ("a: [", "not readable YAML"),
        ("\x00", "not readable YAML"),
        (b"a: \xff", "not readable YAML"),
        ("[" * 200_000, "not readable YAML: it is nested more than 32 deep"),
        ("- " * 200_000, "not readable YAML"),
        ("&a [*a]", "not readable YAML: found unconstructable recursive node"),
        ("!!python/object/apply:os.system [touch ran]", "has no label_list"),
        ("a" * 2**19 + "\n", "not readable YAML: it has more than 524288 bytes"),
    ],
)
def test_other_yaml_is_one_sentence(
    content: str | bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "inference.yml", content)
    with pytest.raises(LabelsError, match=message) as error:
        read_labels(path, 2)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert [file.name for file in tmp_path.iterdir()] == ["inference.yml"]


def test_aliases_of_yaml_do_not_multiply(tmp_path: Path) -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 60))
    path = write(tmp_path / "inference.yml", f"a0: &a0 [x]\n{levels}PostProcess: {{Topk: {{label_list: *a59}}}}\n")
    with pytest.raises(LabelsError, match="no label_list"):
        read_labels(path, 2)


def test_only_line_ends_end_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.txt", "0 a\u2028b\n1 c\x85d\n2 e\x0cf\n")
    assert names(read_labels(path, 3)) == ["a\u2028b", "c\x85d", "e\x0cf"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 cat\n1\n2 frog\n", "line 2"),
        ("0 cat\n1 \n2 frog\n", "line 2"),
        ("0 cat\ndog\n", "line 2.*'dog'"),
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
        ("", "names 0 classes, the model has 3"),
        ("cat\ndog\n", "names 2 classes, the model has 3; is this the label file of another"),
        ("cat\ndog\nfrog\ncow\n", "names 4 classes, the model has 3"),
        ("cat\n\ndog\nfrog\n", "line 2 is empty, .* number the others"),
        ("cat\n1 dog\nfrog\n", "line 1: expected '<id> <name>'.*'cat'"),
        (b"\xff\xfe0\x00 ", r"neither UTF-8 \(byte"),
        (b"0 caf\xe9\n", r"neither UTF-8 \(byte 5\) nor GB18030"),
        (b"0 Gr\xfcn\n1 Wei\xdf\n2 bl\xe4u\n", r"neither UTF-8 \(byte 4\) nor GB18030"),
        ("0 \u7334\u5b50\u3067\u3059\n1 \u732b\n".encode("shift-jis"), "neither UTF-8"),
        ("猫 狗".encode() + b"\xff", "neither UTF-8"),
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
    with pytest.raises(LabelsError, match=r"is a folder; pass the label file or the inference\.yml in it"):
        read_labels(tmp_path, 3)
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(MAX_LABEL_FILE_BYTES + 1)
    with pytest.raises(LabelsError, match="is it a label file"):
        read_labels(tmp_path / "huge.txt", 3)
    with pytest.raises(LabelsError, match="has more than 1000000 lines; is it a label file"):
        read_labels(write(tmp_path / "lines.txt", b"a\n" * 2_000_000), 3)


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

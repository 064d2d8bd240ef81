"""Bundles are verified byte by byte, and never lead out of their folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghostzoo.bundle import folder as module
from ghostzoo.bundle.folder import Bundle
from ghostzoo.bundle.hub_configs import ModelConfig
from ghostzoo.bundle.manifest import MAX_MANIFEST_BYTES
from ghostzoo.errors import BundleError, BundleVersionError, GhostZooError, OptionError
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.labels import ClassLabel
from tests.fixtures.small_bundles import FILES, GRAPH, SIZE, snapshot, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny").path


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "ghostzoo.json"
    content = json.loads(path.read_bytes())
    edit(content)
    path.write_text(json.dumps(content))


def relist(folder: Path, name: str, data: bytes) -> None:
    """Change a file and what the manifest says of it: a bundle of a liar, not of an accident."""
    (folder / name).write_bytes(data)
    record = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    edit_manifest(folder, lambda content: content["files"].update({name: record}))


def test_a_bundle_and_its_parts_are_one_line_each(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert repr(bundle) == f"<Bundle tiny: 2 classes, width 0.5, fp32, folder {str(folder)!r}>"
    for part in (bundle.manifest, bundle.config):
        assert "\n" not in repr(part)
        assert len(repr(part)) < 300


def test_what_was_written_is_read(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert (bundle.name, bundle.num_classes, bundle.precisions) == ("tiny", 2, ("fp32",))
    assert [label.label for label in bundle.labels] == ["cat", "dog"]
    assert bundle.preprocessing == Preprocessing(10, SIZE)
    assert bundle.read(GRAPH) == b"graph" * 100
    assert bundle.golden().logits.shape == (1, 2)
    assert json.loads(json.dumps(bundle.to_dict()))["classes"] == 2
    assert sorted(name for name, data in snapshot(folder).items() if data is not None) == sorted(
        [*FILES, "ghostzoo.json"]
    )
    assert Bundle.open(str(folder)).manifest == bundle.manifest


def test_a_precision_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(OptionError, match="no int8 graph, only fp32"):
        Bundle.open(folder).model("int8")


def test_the_folder_has_any_unicode_name(tmp_path: Path) -> None:
    for name in ("模型 ü", "a'b\"c", "with space", "emoji 👻"):
        assert write(tmp_path / name).path == tmp_path / name
        assert Bundle.open(tmp_path / name).name == "tiny"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    for place in (0, len(data) // 2, len(data) - 1):
        data[place] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(BundleError, match=rf"{name} was changed"):
            Bundle.open(folder)
        data[place] ^= 1


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_longer_file_is_found(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    for other in (data[:-1], b"", data + b"\0", data * 2):
        (folder / name).write_bytes(other)
        with pytest.raises(BundleError, match=rf"{name} has (\d+|more than \d+) bytes"):
            Bundle.open(folder)


def test_manifest_and_config_agree_on_what_scores_are(folder: Path) -> None:
    labels = (ClassLabel("cat"), ClassLabel("dog"))
    relist(folder, "config.json", ModelConfig(0.5, SIZE, labels, multi_label=True).to_json())
    with pytest.raises(BundleError, match=r"only one of ghostzoo.json and config.json .* multi-label"):
        Bundle.open(folder)
    edit_manifest(folder, lambda content: content.update(multi_label=True, format_version=2))
    assert Bundle.open(folder).postprocessing.multi_label


def test_a_newer_format_is_another_error(folder: Path) -> None:
    edit_manifest(folder, lambda content: content.update(format_version=4))
    with pytest.raises(BundleVersionError, match=rf"Bundle {folder}: .*format version 4.*pip install --upgrade"):
        Bundle.open(folder)


def test_the_three_errors_differ(folder: Path) -> None:
    messages = set()
    for damage in (
        lambda: edit_manifest(folder, lambda content: content.update(format_version=4)),
        lambda: (folder / "README.md").unlink(),
        lambda: (folder / "README.md").write_bytes(b"# Card\n"),
    ):
        original = (folder / "ghostzoo.json").read_bytes()
        damage()
        with pytest.raises(BundleError) as error:
            Bundle.open(folder)
        messages.add(str(error.value))
        (folder / "ghostzoo.json").write_bytes(original)
    assert len(messages) == 3
    assert all(str(folder) in message and "\n" not in message for message in messages)


def test_more_files_than_listed_are_tolerated(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / ".git").mkdir()
    assert "notes.txt" not in Bundle.open(folder).manifest.files


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/hostname", "..\\outside", "C:/outside", "onnx/../../outside", "\ud800"]
)
def test_paths_out_of_the_folder_are_refused(folder: Path, path: str) -> None:
    (folder.parent / "outside").write_bytes(b"x")
    record = {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}
    edit_manifest(folder, lambda content: content["files"].update({path: record}))
    with pytest.raises(BundleError, match="not a path inside the bundle"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", [*FILES, "ghostzoo.json"])
def test_links_out_of_the_folder_are_refused(folder: Path, name: str) -> None:
    outside = folder.parent / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(BundleError, match=rf"{name} is a link out of the folder"):
        Bundle.open(folder)


def test_a_linked_subfolder_out_of_the_folder_is_refused(folder: Path) -> None:
    shutil.move(folder / "onnx", folder.parent / "elsewhere")
    (folder / "onnx").symlink_to(folder.parent / "elsewhere", target_is_directory=True)
    with pytest.raises(BundleError, match=r"onnx/model\.onnx is a link out of the folder"):
        Bundle.open(folder)


def test_a_neighbour_with_a_longer_name_is_outside(folder: Path) -> None:
    neighbour = folder.with_name(folder.name + "2")
    shutil.copytree(folder, neighbour)
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(neighbour / "README.md")
    with pytest.raises(BundleError, match="link out of the folder"):
        Bundle.open(folder)


def test_links_inside_and_to_the_folder_are_fine(folder: Path) -> None:
    (folder / "blobs").mkdir()
    shutil.move(folder / "onnx" / "model.onnx", folder / "blobs" / "x")
    (folder / "onnx" / "model.onnx").symlink_to("../blobs/x")
    assert Bundle.open(folder).read(GRAPH) == b"graph" * 100
    link = folder.parent / "link"
    link.symlink_to(folder, target_is_directory=True)
    assert Bundle.open(link).read(GRAPH) == b"graph" * 100


@pytest.mark.parametrize("name", [*FILES, "ghostzoo.json"])
def test_what_is_no_regular_file_is_refused_without_waiting(folder: Path, name: str) -> None:
    path = folder / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.open(folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.open(folder)
    path.rmdir()
    path.symlink_to(path)
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(folder)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="link out"):
        Bundle.open(folder)


def test_what_is_no_bundle_is_said(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        Bundle.open(tmp_path / "missing")
    with pytest.raises(BundleError, match=r"no ghostzoo\.json, so it is not a ghostzoo model"):
        Bundle.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="no such folder"):
        Bundle.open(tmp_path / "file")
    for odd in ("nul\0l", "x" * 5000, "\ud800"):
        with pytest.raises(BundleError):
            Bundle.open(tmp_path / odd)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_every_bundle_has_must_be_listed(folder: Path, name: str) -> None:
    edit_manifest(folder, lambda content: content["files"].pop(name))
    with pytest.raises(BundleError, match=rf"does not list {name}"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"{" * 10**5, b'{"format_version": 1, "format_version": 1}', b"\xff"]
)
def test_manifests_that_make_no_sense_are_refused(folder: Path, data: bytes) -> None:
    (folder / "ghostzoo.json").write_bytes(data)
    with pytest.raises(BundleError, match=str(folder)):
        Bundle.open(folder)


def test_sizes_that_lie_allocate_nothing(folder: Path) -> None:
    edit_manifest(folder, lambda content: content["files"]["README.md"].update(size=400 * 2**20))
    with (folder / "ghostzoo.json").open("ab") as file:
        file.truncate(MAX_MANIFEST_BYTES - 1)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError):
            Bundle.open(folder)
        (folder / "ghostzoo.json").write_bytes((folder / "ghostzoo.json").read_bytes().rstrip(b"\0"))
        with pytest.raises(BundleError, match="has 7 bytes, the manifest says 419430400"):
            Bundle.open(folder)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()
    with (folder / "ghostzoo.json").open("ab") as file:
        file.truncate(2**33)
    with pytest.raises(BundleError, match=rf"more than {MAX_MANIFEST_BYTES} bytes"):
        Bundle.open(folder)


def test_files_that_contradict_each_other_are_refused(folder: Path) -> None:
    relist(folder, "config.json", ModelConfig(0.5, SIZE + 1, (ClassLabel("cat"), ClassLabel("dog"))).to_json())
    with pytest.raises(BundleError, match=r"crops to 8 pixels but config\.json says 9"):
        Bundle.open(folder)


def test_a_golden_file_that_does_not_fit_is_refused(folder: Path) -> None:
    relist(folder, "config.json", ModelConfig(0.5, SIZE, (ClassLabel("cat"),)).to_json())
    with pytest.raises(BundleError, match=r"golden\.npz is damaged"):
        Bundle.open(folder).golden()


def test_what_is_handed_out_is_what_was_checked(folder: Path) -> None:
    bundle = Bundle.open(folder)
    (folder / "onnx" / "model.onnx").write_bytes(b"other" * 100)
    assert bundle.read(GRAPH) == b"graph" * 100
    bundle.release()
    with pytest.raises(BundleError, match="was changed"):
        bundle.read(GRAPH)


def test_every_error_is_in_the_tree() -> None:
    assert issubclass(BundleVersionError, BundleError)
    assert issubclass(BundleError, GhostZooError)
    assert set(module.MODEL_FILES) == {"fp32", "fp16", "int8"}

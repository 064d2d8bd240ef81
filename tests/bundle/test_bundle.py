"""Bundles are verified byte by byte, never lead out of their folder, and appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ghostzoo.bundle import folder as module
from ghostzoo.bundle.edit import check_target, write_bundle
from ghostzoo.bundle.folder import Bundle
from ghostzoo.bundle.golden import Golden
from ghostzoo.bundle.hub_configs import ModelConfig, preprocessing_to_json
from ghostzoo.bundle.manifest import MAX_MANIFEST_BYTES
from ghostzoo.errors import BundleError, BundleVersionError, GhostZooError, OptionError
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.labels import ClassLabel

SIZE = 8
GRAPH = "onnx/model.onnx"
FILES = ["README.md", "config.json", "preprocessor_config.json", "golden.npz", "onnx/model.onnx"]


def contents(graph: bytes = b"graph" * 100) -> dict[str, bytes]:
    """The files of a bundle; what a graph is, is looked at where an engine asks for it."""
    golden = Golden(*(np.ones(shape, np.float32) for shape in ((1, 3, SIZE, SIZE), (1, 2), (1, 1280))))
    return {
        "README.md": b"# card\n",
        "config.json": ModelConfig(0.5, SIZE, (ClassLabel("cat"), ClassLabel("dog"))).to_json(),
        "preprocessor_config.json": preprocessing_to_json(Preprocessing(10, SIZE)),
        "golden.npz": golden.to_bytes(),
        "onnx/model.onnx": graph,
    }


def write(out: Path, files: dict[str, bytes] | None = None, **options: Any) -> Bundle:
    return write_bundle(
        out,
        name="tiny",
        contents=contents() if files is None else files,
        weights={"file_name": "w.pdparams", "sha256": "0" * 64, "size": 1},
        created_by={"ghostzoo": "0"},
        validation={},
        **options,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny").path


def test_a_bundle_and_its_parts_are_one_line_each(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert repr(bundle) == f"<Bundle tiny: 2 classes, width 0.5, fp32, folder {str(folder)!r}>"
    for part in (bundle.manifest, bundle.config):
        assert "\n" not in repr(part)
        assert len(repr(part)) < 300


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


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# Reading


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


# Writing


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    assert snapshot(write(tmp_path / "a").path) == snapshot(write(tmp_path / "b").path)


def test_an_empty_folder_or_missing_parents_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    write(tmp_path / "a" / "b" / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty"]
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c"]


def test_an_existing_bundle_is_replaced_only_when_asked(folder: Path) -> None:
    before = snapshot(folder)
    with pytest.raises(BundleError, match="exists; choose another folder, or ask to overwrite"):
        write(folder, contents(b"new"))
    assert snapshot(folder) == before
    (folder / "old.txt").write_text("old")
    assert write(folder, contents(b"new"), overwrite=True).read(GRAPH) == b"new"
    assert not (folder / "old.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(path.name for path in tmp_path.iterdir())
    for name in ("work", "file", "dangling", "pipe"):
        with pytest.raises(BundleError, match="exists and is not a bundle"):
            write(tmp_path / name, overwrite=overwrite)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "work" / "thesis.txt").read_text() == "years"


def test_overwriting_a_link_keeps_what_it_leads_to(folder: Path) -> None:
    before = snapshot(folder)
    link = folder.parent / "link"
    link.symlink_to(folder, target_is_directory=True)
    assert write(link, contents(b"new"), overwrite=True).read(GRAPH) == b"new"
    assert snapshot(folder) == before


@pytest.mark.parametrize("name", ["../escaped", "{folder}/escaped", "a/../../escaped", "C:/x"])
def test_contents_never_land_outside(tmp_path: Path, name: str) -> None:
    name = name.format(folder=tmp_path)
    (tmp_path / "deep").mkdir()
    with pytest.raises(BundleError, match="not a path inside the bundle"):
        write(tmp_path / "deep" / "tiny", {**contents(), name: b"x"})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep"]


def test_contents_that_are_no_bundle_are_not_written(tmp_path: Path) -> None:
    for damage in ({"config.json": b"{}"}, {"preprocessor_config.json": b"[]"}):
        with pytest.raises(BundleError):
            write(tmp_path / "tiny", contents() | damage)
    incomplete = contents()
    del incomplete["golden.npz"]
    with pytest.raises(BundleError, match=r"golden\.npz"):
        write(tmp_path / "tiny", incomplete)
    assert not list(tmp_path.iterdir())


def test_a_failure_while_replacing_keeps_the_old_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(folder)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        write(folder, contents(b"new"), overwrite=True)
    assert snapshot(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


RUN = """
import sys, resource
from pathlib import Path
from tests.bundle.test_bundle import contents, write
from ghostzoo.errors import BundleError
out, limit, overwrite = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "overwrite"
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.stdin.readline()
try:
    write(out, contents(bytes(200_000)), overwrite=overwrite)
    print("written")
except BundleError as error:
    print("refused:", error)
"""


def start(out: Path, limit: int = 0, mode: str = "new") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", RUN, str(out), str(limit), mode]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    return process.communicate("go\n", timeout=60)[0].strip()


def test_a_disk_that_takes_no_more_leaves_nothing(tmp_path: Path) -> None:
    answer = finish(start(tmp_path / "tiny", limit=100_000))
    assert answer == f"refused: Cannot write {tmp_path}/tiny: File too large; nothing was changed."
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_no_more_keeps_the_old_bundle(folder: Path) -> None:
    before = snapshot(folder)
    assert finish(start(folder, limit=100_000, mode="overwrite")).startswith("refused: Cannot write")
    assert snapshot(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("mode", ["new", "overwrite"])
def test_two_processes_at_once_leave_one_whole_bundle(tmp_path: Path, mode: str) -> None:
    out = tmp_path / "tiny"
    if mode == "overwrite":
        write(out)
    processes = [start(out, mode=mode) for _ in range(2)]
    for process in processes:  # both have loaded everything and wait for a line
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert "written" in answers
    assert all(answer == "written" or answer.startswith("refused: ") for answer in answers)
    if mode == "new":
        assert answers.count("written") == 1
    assert Bundle.open(out).read(GRAPH) == bytes(200_000)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_the_loser_of_a_race_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other writer's bundle appears after the last check, right before the renaming."""
    out = tmp_path / "tiny"
    rename, racing = Path.rename, True

    def rename_late(self: Path, target: Path) -> Path:
        nonlocal racing
        if racing:
            racing = False
            write(out, contents(b"winner"))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_late)
    with pytest.raises(BundleError, match="Cannot write"):
        write(out, contents(b"loser"))
    assert Bundle.open(out).read(GRAPH) == b"winner"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "tiny", tmp_path / ("x" * 300), tmp_path / ("x" * 250), Path("/proc/tiny")):
        with pytest.raises(BundleError, match="Cannot write"):
            write(out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes to folders without permission")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(BundleError, match="Cannot write"):
        write(tmp_path / "locked" / "tiny")
    assert not list((tmp_path / "locked").iterdir())


@pytest.mark.parametrize("out", ["", ".", "..", "new/.."])
def test_the_working_folder_and_those_above_are_no_target(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="name the folder"):
        write(Path(out))
    assert not list(tmp_path.iterdir())


def test_the_check_before_the_work_says_the_same(tmp_path: Path) -> None:
    check_target(tmp_path / "new", False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="not a bundle"):
        check_target(tmp_path / "file", True)
    with pytest.raises(BundleError, match="Cannot write"):
        check_target(tmp_path / ("x" * 300), False)


def test_every_error_is_in_the_tree() -> None:
    assert issubclass(BundleVersionError, BundleError)
    assert issubclass(BundleError, GhostZooError)
    assert set(module.MODEL_FILES) == {"fp32", "fp16", "int8"}

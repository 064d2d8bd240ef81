"""``python -m exporters export-edge`` with the real converters of ncnn, MNN and LiteRT."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

import ghostzoo
import ghostzoo.catalog
from exporters import edge_formats
from exporters.converter_process import last_lines, run_converter
from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.bundle.golden import Golden
from ghostzoo.errors import BundleError, EngineError, EngineUnavailableError, ParityError
from ghostzoo.fetch.resolver import fetch
from ghostzoo.parity import ENGINE_TOLERANCE, compare_logits

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def needs(*distributions: str) -> pytest.MarkDecorator:
    missing = []
    for name in distributions:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed; make test installs them")


FORMATS = [
    pytest.param("ncnn", marks=needs("ncnn", "pnnx")),
    pytest.param("mnn", marks=needs("MNN")),
    pytest.param("litert", marks=needs("ai-edge-litert")),
]


@pytest.fixture
def folder(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.path, folder)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "exporters", "export-edge", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)


@needs("ncnn", "pnnx", "MNN", "ai-edge-litert")
def test_all_formats_join_the_bundle_and_run(folder: Path) -> None:
    before = files_in(folder)
    formats = ("ncnn", "mnn", "litert")
    result = command(folder, *(word for form in formats for word in ("--to", form)))
    assert result.returncode == 0, result.stderr
    assert "ncnn/model.param" in result.stdout
    after = files_in(folder)
    added = {file for form in formats for file in CONVERTED_FILES[form]}
    assert set(after) == set(before) | added
    assert {name for name in before if after[name] != before[name]} == {"ghostzoo.json"}
    bundle = Bundle.open(folder)
    assert set(bundle.manifest.validation["conversions"]) == set(formats)
    assert {"pnnx", "ncnn", "MNN", "ai-edge-litert"} <= set(bundle.manifest.created_by)
    picture = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    with ghostzoo.load(folder, engine="onnxruntime", threads=1) as clf:
        expected = clf.logits(picture), clf.embed(picture)
    for engine in formats:
        with ghostzoo.load(folder, engine=engine, threads=1) as clf:
            assert clf.self_check().within(ENGINE_TOLERANCE)
            assert compare_logits(expected[0], clf.logits(picture)).within(ENGINE_TOLERANCE)
            assert compare_logits(expected[1], clf.embed(picture)).within(ENGINE_TOLERANCE)


@needs("MNN")
def test_stdout_is_for_data_alone(folder: Path, tmp_path: Path) -> None:
    edge_formats.export_edge(folder, "mnn")
    image = tmp_path / "a.png"
    import cv2

    cv2.imwrite(str(image), np.zeros((70, 80, 3), np.uint8))
    words = [sys.executable, "-m", "ghostzoo", "predict", image, "--model", folder, "--engine", "mnn", "--csv"]
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("image,rank")


@pytest.mark.parametrize("form", FORMATS)
def test_a_copy_leaves_the_bundle_as_it_is(form: str, folder: Path, tmp_path: Path) -> None:
    before = files_in(folder)
    result = edge_formats.export_edge(folder, form, out=tmp_path / "copy")
    assert files_in(folder) == before
    assert set(result.bundle.manifest.files) == {*Bundle.open(folder).manifest.files, *CONVERTED_FILES[form]}


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_written_when_the_engine_disagrees(
    form: str, folder: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    golden = tiny_bundle.golden()
    shifted = golden.logits + np.eye(1, tiny_bundle.num_classes, dtype=np.float32)
    manifest = tiny_bundle.manifest
    contents = {name: tiny_bundle.read(name) for name in manifest.files}
    contents["golden.npz"] = Golden(golden.pixel_values, shifted, golden.embedding).to_bytes()
    other = tmp_path / "other"
    write_bundle(other, name="other", contents=contents, weights={}, created_by={}, validation={})
    before = files_in(other)
    with pytest.raises(ParityError, match=rf"converted to {form} differs .* logits .*Nothing was written"):
        edge_formats.export_edge(other, form)
    assert files_in(other) == before


@pytest.mark.parametrize("form", FORMATS)
def test_invalid_graph_is_refused_before_conversion(
    form: str, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {name: tiny_bundle.read(name) for name in tiny_bundle.manifest.files} | {"onnx/model.onnx": b"no graph"}
    write_bundle(tmp_path / "broken", name="broken", contents=contents, weights={}, created_by={}, validation={})
    with pytest.raises(BundleError, match=r"onnx/model\.onnx .*; do not use this bundle"):
        edge_formats.export_edge(tmp_path / "broken", form)
    monkeypatch.setattr(Bundle, "model", lambda *_: b"no graph")  # and where one fails all the same
    with pytest.raises(EngineError, match=r"Its last output: .|is not an ONNX graph"):
        edge_formats.export_edge(tmp_path / "broken", form)


def test_without_pnnx_the_command_that_installs_it_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import exporters.to_ncnn

    pytest.importorskip("ncnn", reason="ncnn is an extra, which is not installed here")
    monkeypatch.setattr(exporters.to_ncnn, "find_spec", lambda _: None)
    with pytest.raises(EngineUnavailableError, match="pip install --no-deps pnnx"):
        edge_formats.export_edge(folder, "ncnn")


def test_a_converter_sees_neither_home_nor_programs(tmp_path: Path) -> None:
    code = "import os, shutil; print(os.getcwd(), os.environ['HOME'], shutil.which('pip'), shutil.which('sh'))"
    assert run_converter("python", [sys.executable, "-c", code], tmp_path).split() == [
        os.path.realpath(tmp_path),
        str(tmp_path),
        "None",
        "None",
    ]
    assert last_lines("") == "none"
    assert last_lines("a\nb\n\nc\nd\n") == "c / d"


@needs("MNN")
def test_the_packages_own_model_is_copied_and_not_changed(tmp_path: Path) -> None:
    name = ghostzoo.catalog.DEFAULT_MODEL
    folder = fetch(name).path
    before = files_in(folder)
    result = command(name, "--to", "mnn")
    assert result.returncode == 1
    assert "--out" in result.stderr
    with pytest.raises(EngineUnavailableError, match=f"{name} has no files for mnn"):
        ghostzoo.load(name, engine="mnn")
    result = command(name, "--to", "mnn", "--out", tmp_path / "copy")
    assert result.returncode == 0, result.stderr
    assert files_in(folder) == before
    with ghostzoo.load(tmp_path / "copy", engine="mnn", threads=1) as clf:
        assert clf.self_check().within(ENGINE_TOLERANCE)

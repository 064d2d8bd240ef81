"""The exporter as its user runs it, and its refusal to write what is not proven."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import exporters.export as exporting
import exporters.paddle_oracle as paddle_oracle
import ghostzoo
from ghostzoo.catalog import list_official_models
from ghostzoo.errors import GhostZooError, ParityError
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.network.architecture import Architecture
from tests.exporters.conftest import run
from tests.fixtures.networks import random_arrays, write_weights

pytestmark = pytest.mark.slow


def test_weights_become_a_bundle_that_predicts(weights: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    result = run("export", "--model", "GhostNet_x0_5", "--weights", weights, "--images", images, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "paddle2onnx graph" in result.stdout
    assert "46.15 M" in result.stdout
    with ghostzoo.load(out, threads=1) as clf:
        assert clf.self_check().within(1e-5)
        report = clf.bundle.manifest.validation
        assert len(clf(images / "0.png")) == 5
    comparison = report["paddle_comparison"]
    routes = comparison["routes"]
    assert set(routes) == {"paddle2onnx graph", "ghostzoo graph"}
    assert all(route["relative"] <= 1e-5 and route["top5_equal"] for route in routes.values())
    assert comparison["images"] == 3
    assert {route["worst_image"] for route in routes.values()} <= {"0.png", "1.png", "2.png"}
    assert report["counts"]["parameters_agree"]
    converted = ghostzoo.convert(weights, tmp_path / "converted", model="GhostNet_x0_5")
    assert (converted.path / "onnx" / "model.onnx").read_bytes() == (out / "onnx" / "model.onnx").read_bytes()


def test_other_versions_of_onnx_write_the_same_graph(weights: Path, runtime_python: str, tmp_path: Path) -> None:
    arguments = ["convert", "--model", "GhostNet_x0_5", "--weights", weights, "--out", tmp_path / "other"]
    result = run(*arguments, python=runtime_python, module="ghostzoo")
    assert result.returncode == 0, result.stderr
    here = ghostzoo.convert(weights, tmp_path / "here", model="GhostNet_x0_5")
    other = ghostzoo.Bundle.open(tmp_path / "other")
    assert other.manifest.created_by["onnx"] != here.manifest.created_by["onnx"]
    assert other.model() == here.model()


def test_weights_of_a_multi_label_model_are_exported_as_one(weights: Path, images: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{index} tag {index}\n" for index in range(1000)))
    source = ["--weights", weights, "--images", images, "--labels", labels]
    result = run("export", "--name", "tags", *source, "--multi-label", "--out", tmp_path / "tags")
    assert result.returncode == 0, result.stderr
    assert ghostzoo.Bundle.open(tmp_path / "tags").manifest.multi_label


def test_nothing_is_written_when_the_routes_disagree(
    weights: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = paddle_oracle.build_network

    def build_another(arrays, architecture):  # type: ignore[no-untyped-def]
        changed = {key: array.copy() for key, array in arrays.items()}
        changed["fc_1.bias"][7] += 0.01
        return build(changed, architecture)

    monkeypatch.setattr(paddle_oracle, "build_network", build_another)
    out = tmp_path / "bundle"
    with pytest.raises(ParityError, match=r"GhostNet_x0_5: .*ghostzoo graph differs .*\.png.*Nothing was written"):
        exporting.export_model(out, images, weights=weights, model="GhostNet_x0_5")
    assert list(tmp_path.iterdir()) == []


def test_custom_classes_and_labels(images: Path, tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "mine.pdparams", random_arrays(Architecture.of(0.35, 3)))
    labels = tmp_path / "labels.txt"
    labels.write_text("0 cat\n1 dog\n2 bird\n")
    exporting.export_model(tmp_path / "mine", images, weights=weights, name="mine", labels=labels)
    bundle = ghostzoo.Bundle.open(tmp_path / "mine")
    assert [label.label for label in bundle.labels] == ["cat", "dog", "bird"]
    assert "source_url" not in bundle.manifest.weights


def test_a_student_with_the_preprocessing_of_its_export(images: Path, tmp_path: Path) -> None:
    arrays = random_arrays(Architecture.of(0.35, 3))
    both = {f"{network}.{key}": array for network in ("Teacher", "Student") for key, array in arrays.items()}
    weights = write_weights(tmp_path / "both.pdparams", both)
    config = tmp_path / "inference.yml"
    config.write_text(
        "PreProcess: {transform_ops: [{ResizeImage: {resize_short: 72}}, {CropImage: {size: 64}}, NormalizeImage]}\n"
        "PostProcess: {Topk: {label_list: [cat, dog, bird]}}\n"
    )
    bundle = exporting.export_model(
        tmp_path / "mine", images, weights=weights, name="mine", prefix="Student.", labels=config
    ).bundle
    assert bundle.manifest.weights["prefix"] == "Student."
    assert bundle.preprocessing == Preprocessing(72, 64, 1 / 255)
    assert [label.label for label in bundle.labels] == ["cat", "dog", "bird"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "GhostNet_x0_5"], "one of --weights"),
        (["--weights", "w"], "--name"),
        (["--all"], "--weights-dir"),
        (["--model", "GhostNet_x0_5", "--weights", "w", "--archive", "a"], "one of"),
    ],
)
def test_wrong_usage_is_exit_status_2(arguments: list[str], message: str, images: Path, tmp_path: Path) -> None:
    result = run("export", *arguments, "--images", images, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert message in result.stderr


def test_missing_weights_of_all_are_named_before_any_work(images: Path, tmp_path: Path) -> None:
    result = run("export", "--all", "--weights-dir", tmp_path, "--images", images, "--out", tmp_path / "out")
    assert result.returncode == 1
    assert "GhostNet_x1_3_ssld_pretrained.pdparams" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_is_there_already_is_told_before_any_work(weights: Path, images: Path, tmp_path: Path) -> None:
    for name in list_official_models():
        shutil.copy(weights, tmp_path / f"{name}_pretrained.pdparams")
    (tmp_path / "out" / "GhostNet_x1_3" / "mine").mkdir(parents=True)
    result = run("export", "--all", "--weights-dir", tmp_path, "--images", images, "--out", tmp_path / "out")
    assert result.returncode == 1
    assert "GhostNet_x1_3 exists" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["GhostNet_x1_3"]


def test_an_unreadable_image_is_an_error(weights: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    (folder / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(GhostZooError, match=r"broken\.jpg"):
        exporting.export_model(tmp_path / "out", folder, weights=weights, model="GhostNet_x0_5")
    assert not (tmp_path / "out").exists()


def test_help_lists_all_commands() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert "export" in result.stdout
    assert "Examples" in run("export", "--help").stdout

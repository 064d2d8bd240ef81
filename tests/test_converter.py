"""Weight file in, proven bundle out: the same bytes every time, or a clear error and nothing at all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import ghostzoo
from ghostzoo import converter as module
from ghostzoo.bundle.folder import Bundle
from ghostzoo.catalog import get_model
from ghostzoo.converter import convert
from ghostzoo.engines.base import EngineOptions
from ghostzoo.engines.onnxruntime import OnnxRuntimeEngine
from ghostzoo.errors import BundleError, LabelsError, OptionError, ParityError, UnknownModelError, WeightsError
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.labels import ClassLabel
from ghostzoo.network.architecture import Architecture
from ghostzoo.parity import ENGINE_TOLERANCE, EXACT_TOLERANCE, compare_logits
from ghostzoo.weights.safetensors import dump_safetensors
from tests.fixtures.checkpoints import safetensors
from tests.fixtures.networks import random_arrays, write_weights

SMALL = Preprocessing(resize_short=72, crop_size=64)
LABELS = ["cat", "dog", "frog"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow network of three classes."""
    return write_weights(tmp_path_factory.mktemp("weights") / "mine.pdparams", random_arrays(Architecture.of(0.25, 3)))


def convert_small(weights: Path, out: Path, **options: Any) -> Bundle:
    return convert(weights, out, **({"name": "mine", "labels": LABELS, "preprocessing": SMALL} | options))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_says_what_it_is(weights: Path, tmp_path: Path) -> None:
    bundle = convert_small(weights, tmp_path / "mine")
    data = weights.read_bytes()
    assert bundle.manifest.weights == {
        "file_name": "mine.pdparams",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
    }
    assert bundle.manifest.created_by == {
        "ghostzoo": ghostzoo.__version__,
        "numpy": np.__version__,
        "onnx": version("onnx"),
    }
    assert bundle.manifest.validation["paddle_comparison"] == "not run"
    for output in ("logits", "embedding"):
        report = bundle.manifest.validation["golden_check"][output]
        assert report["top5_equal"] is True
        assert 0 <= report["max_difference"] <= EXACT_TOLERANCE * report["scale"]
    assert (bundle.name, bundle.config.width, bundle.config.image_size) == ("mine", 0.25, 64)
    assert [label.label for label in bundle.labels] == LABELS
    assert bundle.preprocessing == SMALL
    card = bundle.read("README.md").decode()
    assert hashlib.sha256(data).hexdigest() in card
    assert "GhostNet image classifier of width 0.25 for 3 classes as an ONNX graph, of custom weights." in card
    assert "| scores | softmax of the logits |" in card
    assert 'ghostzoo.load("path/to/this/folder")' in card
    assert "paddle comparison: not run" in card
    assert "license:" not in card  # whose weights these are is not known
    assert card == f"{card.rstrip()}\n"


def test_an_assumed_image_size_is_told(weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    convert_small(weights, tmp_path / "told")
    assert caplog.messages == []
    bundle = convert_small(weights, tmp_path / "assumed", preprocessing=None)
    assert bundle.preprocessing == Preprocessing()
    [message] = caplog.messages
    assert "weights of mine do not tell the size of their images: 224 pixels" in message
    assert "--crop-size" in message


def test_the_graph_passes_its_own_golden_check(weights: Path, tmp_path: Path) -> None:
    bundle = convert_small(weights, tmp_path / "mine")
    onnx.checker.check_model(bundle.model(), full_check=True)
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(bundle.model()).metadata_props}
    assert metadata["ghostzoo.weights_sha256"] == bundle.manifest.weights["sha256"]
    golden = bundle.golden()
    assert golden.pixel_values.shape == (2, 3, 64, 64)
    with OnnxRuntimeEngine(bundle.model(), EngineOptions(threads=1)) as engine:
        assert golden.check(engine.run).within(ENGINE_TOLERANCE)
        assert compare_logits(golden.embedding, engine.run(golden.pixel_values, "embedding")).within(EXACT_TOLERANCE)


def test_the_same_weights_give_the_same_bytes(weights: Path, tmp_path: Path) -> None:
    first = files_of(convert_small(weights, tmp_path / "one").path)
    assert files_of(convert_small(weights, tmp_path / "two").path) == first
    code = (
        "import sys; from pathlib import Path; from tests.test_converter import convert_small\n"
        "convert_small(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code, str(weights), str(tmp_path / "three")]
    subprocess.run(command, env=environment, check=True, cwd=tmp_path)
    assert files_of(tmp_path / "three") == first


def test_other_weights_give_another_graph(weights: Path, tmp_path: Path) -> None:
    other = write_weights(tmp_path / "other.pdparams", random_arrays(Architecture.of(0.25, 3), seed=1))
    one, two = convert_small(weights, tmp_path / "one"), convert_small(other, tmp_path / "two")
    assert one.model() != two.model()
    assert one.golden().to_bytes() != two.golden().to_bytes()


def test_names_and_labels_are_any_unicode(weights: Path, tmp_path: Path) -> None:
    odd = tmp_path / "幽灵 ü.pdparams"
    odd.write_bytes(weights.read_bytes())
    labels = tmp_path / "标签.txt"
    labels.write_text("2 青蛙\n0 猫\n1 Hündin\n", encoding="utf-8")
    bundle = convert_small(odd, tmp_path / "模型", labels=labels)
    assert [label.label for label in bundle.labels] == ["猫", "Hündin", "青蛙"]
    assert bundle.manifest.weights["file_name"] == "幽灵 ü.pdparams"
    bytes_name = tmp_path / os.fsdecode(b"odd\xff.pdparams")
    bytes_name.write_bytes(weights.read_bytes())
    assert convert_small(bytes_name, tmp_path / "bytes").manifest.weights["file_name"] == r"odd\udcff.pdparams"


def test_one_network_of_a_checkpoint_is_converted(weights: Path, tmp_path: Path) -> None:
    arrays, teacher = random_arrays(Architecture.of(0.25, 3)), random_arrays(Architecture.of(0.25, 3), seed=1)
    both = {f"Teacher.{key}": array for key, array in teacher.items()}
    both |= {f"Student.{key}": array for key, array in arrays.items()}
    path = write_weights(tmp_path / "both.pdparams", both)
    with pytest.raises(WeightsError, match=r"--prefix"):
        convert_small(path, tmp_path / "student")
    student = convert_small(path, tmp_path / "student", prefix="Student.")
    assert student.manifest.weights["prefix"] == "Student."
    plain = convert_small(weights, tmp_path / "plain")
    assert "prefix" not in plain.manifest.weights
    assert student.golden().to_bytes() == plain.golden().to_bytes()


def test_safetensors_give_the_same_graph(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(safetensors(random_arrays(Architecture.of(0.25, 3))))
    bundle = convert_small(path, tmp_path / "mine")
    assert bundle.manifest.weights["file_name"] == "mine.safetensors"
    assert bundle.golden().to_bytes() == convert_small(weights, tmp_path / "plain").golden().to_bytes()


def test_an_export_gives_labels_and_preprocessing(weights: Path, tmp_path: Path) -> None:
    export = tmp_path / "inference.yml"
    export.write_text(
        """
PreProcess:
  transform_ops:
  - ResizeImage: {resize_short: 72}
  - CropImage: {size: 64}
  - NormalizeImage: {mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2], scale: 1.0/255.0}
  - ToCHWImage:
PostProcess: {Topk: {topk: 1, label_list: [雏菊, 玫瑰, tulip]}}
""",
        encoding="utf-8",
    )
    bundle = convert(weights, tmp_path / "mine", name="mine", labels=export)
    assert [label.label for label in bundle.labels] == ["雏菊", "玫瑰", "tulip"]
    exported = Preprocessing(72, 64, 1 / 255, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert bundle.preprocessing == exported
    assert convert_small(weights, tmp_path / "small", labels=export).preprocessing == SMALL
    options = ["--name", "mine", "--weights", weights, "--labels", export, "--crop-size", "32"]
    command = [sys.executable, "-m", "ghostzoo", "convert", *options, "--out", tmp_path / "cropped"]
    subprocess.run(command, check=True)
    assert Bundle.open(tmp_path / "cropped").preprocessing == replace(exported, crop_size=32)


def assert_nothing_written(out: Path, error: type[Exception], match: str, **call: Any) -> None:
    before = sorted(out.parent.iterdir())
    with pytest.raises(error, match=match) as caught:
        convert(**({"out": out, "name": "mine", "labels": LABELS, "preprocessing": SMALL} | call))
    assert "\n" not in str(caught.value)
    assert sorted(out.parent.iterdir()) == before


def test_labels_that_do_not_fit_are_refused(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "mine"
    out.parent.mkdir()
    call: dict[str, Any] = {"weights": weights}
    assert_nothing_written(
        out, LabelsError, r"3 classes, so ImageNet's 1000 labels do not fit; pass labels", labels=None, **call
    )
    assert_nothing_written(out, LabelsError, "2 labels were passed for 3", labels=["a", "b"], **call)
    file = tmp_path / "labels.txt"
    for text, match in (
        ("0 cat\ndog\n2 frog\n", r"labels\.txt, line 2"),
        ("0 cat\n1 dog\n", "missing ids: 2"),
        ("0 cat\n1 dog\n2 frog\n3 cow\n", "line 4.*another model"),
    ):
        file.write_text(text)
        assert_nothing_written(out, LabelsError, match, labels=file, **call)
    assert_nothing_written(out, LabelsError, "missing", labels=tmp_path / "missing.txt", **call)


def test_wrong_calls_are_refused(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    call: dict[str, Any] = {"weights": weights}
    assert_nothing_written(out, OptionError, "catalog model.*or give", name=None, **call)
    assert_nothing_written(out, UnknownModelError, "GhostNet_x1_0", model="GhostNet_x1_O", **call)
    assert_nothing_written(out, WeightsError, "width 0.25, not 0.5", model="GhostNet_x0_5", **call)
    assert_nothing_written(out, WeightsError, "no weight file", weights=tmp_path / "missing.pdparams")
    for name in ("../mine", "a/b", "", "a b", ".hidden"):
        assert_nothing_written(out, BundleError, "cannot name a model", name=name, **call)


def test_damaged_and_hostile_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pdparams"
    for data, match in (
        (weights.read_bytes()[:-1000], "not a readable"),
        (f"cos\nsystem\n(S'touch {tmp_path}/ran'\ntR.".encode(), r"os\.system"),
        (b"", "is empty"),
    ):
        bad.write_bytes(data)
        assert_nothing_written(tmp_path / "mine", WeightsError, match, weights=bad)


def test_an_existing_folder_is_refused_before_the_work(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = convert_small(weights, tmp_path / "mine")
    before = files_of(first.path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years")
    with monkeypatch.context() as patch:
        patch.setattr(module, "build_graph", lambda *args, **kwargs: pytest.fail("the work was begun"))
        assert_nothing_written(tmp_path / "mine", BundleError, "ask to overwrite", weights=weights)
        assert_nothing_written(tmp_path / "work", BundleError, "not a bundle", weights=weights, overwrite=True)
    assert files_of(first.path) == before
    assert convert_small(weights, tmp_path / "mine", labels=["a", "b", "c"], overwrite=True).labels[0].label == "a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "work"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_graph_unlike_its_weights_is_never_written(weights: Path, tmp_path: Path) -> None:
    """The numbers are finite, but folding the batch-norm exceeds float32."""
    arrays = random_arrays(Architecture.of(0.25, 3))
    arrays["conv1._batch_norm.weight"][:] = 3e38
    arrays["conv1._conv.weight"] *= 100
    bad = write_weights(tmp_path / "bad.pdparams", arrays)
    assert_nothing_written(tmp_path / "mine", ParityError, "logits|embedding", weights=bad)


def test_a_wrong_graph_is_never_written(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in the graph builder: one bias is a little off."""
    build = module.build_graph

    def build_wrongly(arrays: Any, *args: Any, **kwargs: Any) -> bytes:
        return build({**arrays, "fc_0._batch_norm.bias": arrays["fc_0._batch_norm.bias"] + 1e-3}, *args, **kwargs)

    monkeypatch.setattr(module, "build_graph", build_wrongly)
    assert_nothing_written(
        tmp_path / "mine", ParityError, "differs from the reference forward pass of its weights", weights=weights
    )


def test_catalog_weights_at_full_size(shared: Path, tmp_path: Path) -> None:
    path = shared / "reference" / "GhostNet_x0_5_pretrained.pdparams"
    bundle = convert(path, tmp_path / "x0_5", model="GhostNet_x0_5")
    record = get_model("GhostNet_x0_5")
    assert bundle.name == record.name
    assert bundle.manifest.weights["source_url"] == record.weights_url
    assert bundle.manifest.weights["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert bundle.labels[281].wnid == "n02123045"
    assert bundle.preprocessing == record.preprocessing
    card = bundle.read("README.md").decode()
    assert "license: apache-2.0" in card
    assert f"the original weights are at <{record.weights_url}>" in card
    assert json.loads(bundle.read("config.json"))["id2label"]["281"] == "tabby, tabby cat"
    recorded = np.load(shared / "reference" / "GhostNet_x0_5_logits.npz")
    photos = np.load(shared / "reference" / "preprocessed.npz")
    by_name = dict(zip((Path(str(file)).name for file in recorded["files"]), recorded["logits"], strict=True))
    expected = np.stack([by_name[photo] for photo in photos.files])
    with OnnxRuntimeEngine(bundle.model(), EngineOptions(threads=1)) as engine:
        actual = engine.run(np.stack([photos[photo] for photo in photos.files]))
    assert compare_logits(expected, actual).within(2e-5)


def test_renamed_catalog_weights_are_not_called_official(shared: Path, tmp_path: Path) -> None:
    path = shared / "reference" / "GhostNet_x0_5_pretrained.pdparams"
    small: dict[str, Any] = {"model": "GhostNet_x0_5", "preprocessing": SMALL}
    renamed = convert(path, tmp_path / "renamed", name="mine", **small)
    relabelled = convert(path, tmp_path / "relabelled", labels=[f"class {i}" for i in range(1000)], **small)
    for bundle in (renamed, relabelled):
        assert "source_url" not in bundle.manifest.weights
        assert "license:" not in bundle.read("README.md").decode()
    assert (renamed.name, relabelled.name) == ("mine", "GhostNet_x0_5")


def timm_folder(tmp_path: Path, name: str, classes: int, **config: Any) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    architecture = Architecture.named(name, classes)
    (folder / "model.safetensors").write_bytes(dump_safetensors(random_arrays(architecture)))
    described = {"input_size": [3, 64, 64], "crop_pct": 0.9, "interpolation": "bicubic", **config.pop("described", {})}
    content = {"architecture": name, "num_classes": classes, "pretrained_cfg": described, **config}
    (folder / "config.json").write_text(json.dumps(content))
    return folder / "model.safetensors"


@pytest.mark.parametrize("name", ["ghostnet_025", "ghostnetv2_025", "ghostnetv3_025", "repghostnet_025"])
def test_what_timm_saved_becomes_a_bundle(name: str, tmp_path: Path) -> None:
    names, descriptions = ["n02123045", "dog", "bird"], {"n02123045": "tabby cat", "dog": "a dog"}
    weights = timm_folder(tmp_path, name, 3, label_names=names, label_descriptions=descriptions)
    bundle = convert(weights, tmp_path / "bundle")
    assert bundle.name == name
    assert bundle.config.family.name == name.partition("_")[0]
    assert bundle.config.width == 0.25
    assert bundle.labels == (ClassLabel("tabby cat", "n02123045"), ClassLabel("a dog"), ClassLabel("bird"))
    steps = bundle.preprocessing
    assert (steps.crop_size, steps.resize_short, steps.interpolation) == (64, 71, "bicubic")
    assert bundle.manifest.validation["timm_comparison"] == "not run"
    report = bundle.manifest.validation["golden_check"]["logits"]
    assert report["max_difference"] <= 1e-5 * report["scale"]
    with ghostzoo.load(bundle.path) as classifier:
        assert classifier(np.zeros((80, 90, 3), np.uint8))[0].label in {"tabby cat", "a dog", "bird"}


def test_timm_weights_alone_are_preprocessed_as_timm_does(tmp_path: Path) -> None:
    weights = timm_folder(tmp_path, "repghostnet_025", 1000)
    (tmp_path / "repghostnet_025" / "config.json").unlink()
    bundle = convert(weights, tmp_path / "bundle", name="mine", crop_size=96)
    assert bundle.preprocessing == Preprocessing(110, 96, 1 / 255, interpolation="bicubic")
    assert len(bundle.labels) == 1000


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"described": {"interpolation": "bilinear"}}, OptionError, "interpolation 'bilinear' instead of 'bicubic'"),
        ({"described": {"crop_mode": "squash"}}, OptionError, "crop_mode 'squash'"),
        ({"described": {"input_size": [1, 64, 64]}}, OptionError, "1 x 64 x 64"),
        ({"described": {"crop_pct": 0}}, OptionError, "does not support"),
        ({"described": {"crop_pct": 7.5}}, OptionError, "must not be larger"),
        ({"described": {"mean": [1, 2]}}, OptionError, "does not support"),
        ({"label_names": ["a"]}, LabelsError, "names 1 classes, the model has 3"),
        ({"label_names": {"a": 1}}, LabelsError, "no list of label_names"),
        ({}, LabelsError, "no list of label_names"),
    ],
)
def test_a_config_that_does_not_fit_is_one_sentence(
    config: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    names = {"label_names": ["a", "b", "c"]} if "described" in config else {}
    weights = timm_folder(tmp_path, "repghostnet_010", 3, **names, **config)
    assert_nothing_written(
        tmp_path / "out", error, message, weights=weights, name=None, labels=None, preprocessing=None
    )

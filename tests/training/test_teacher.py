from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from exporters.training.data import ImageCache
from exporters.training.probe import fit_probabilities
from exporters.training.teacher import DescribedTeacher, ask_teacher, pixel_values, read_description
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import GhostZooError, InputError
from ghostzoo.evaluation.datasets import open_dataset
from tests.training.runs import train

pytestmark = pytest.mark.slow

FEATURES = 1280


def write_teacher(folder: Path, *, features: int = FEATURES, **entries: Any) -> Path:
    """An ONNX model of one convolution: its feature is random, and so are its three logits."""
    rng = np.random.default_rng(0)

    def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    weights = {"kernel": (features, 3, 5, 5), "linear": (features, 3)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["maps"]),
            helper.make_node("Relu", ["maps"], ["positive"]),
            helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["feature"]),
            helper.make_node("MatMul", ["feature", "linear"], ["logits"]),
        ],
        "teacher",
        [tensor("x", "n", 3, 24, 24)],
        [tensor("feature", "n", features), tensor("logits", "n", 3)],
        [numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), n) for n, shape in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "teacher.onnx").write_bytes(model.SerializeToString())
    description = {"model": "teacher.onnx", "image_size": 24, "resize_short": 28, "feature": "feature", **entries}
    path = folder / "teacher.json"
    path.write_text(json.dumps({name: value for name, value in description.items() if value is not None}))
    return path


def compute(path: Path, pictures: Path, cache: Path) -> DescribedTeacher:
    return ask_teacher(path, open_dataset(pictures), ImageCache(2**24), cache, threads=1, needs_feature=True)


def accuracy(outputs: DescribedTeacher, pictures: Path) -> float:
    labels = np.array([sample.label for sample in open_dataset(pictures).samples])
    return float((outputs.probabilities.numpy().argmax(axis=1) == labels).mean())


def test_a_feature_extractor_teaches_by_a_fitted_classifier(pictures: Path, tmp_path: Path) -> None:
    outputs = compute(write_teacher(tmp_path), pictures, tmp_path / "cache")
    assert outputs.features is not None
    assert outputs.features.shape == (120, FEATURES)
    assert outputs.probabilities.sum(dim=1).numpy() == pytest.approx(np.ones(120), abs=1e-5)
    assert accuracy(outputs, pictures) > 0.6


def test_an_image_is_judged_by_a_classifier_that_never_saw_it() -> None:
    """Features that identify each image, but say nothing of its class, are of no use to others."""
    labels = np.random.default_rng(0).integers(0, 3, 90)
    answer = fit_probabilities(np.eye(90, dtype=np.float16), labels, 3)
    assert float((answer.argmax(dim=1).numpy() == labels).mean()) < 0.5


def test_unlabelled_images_get_probabilities_too() -> None:
    labels = np.repeat(np.array([0, 1, -1]), 20)
    rng = np.random.default_rng(0)
    features = np.repeat(np.array([[4, 0], [0, 4], [0, 4]]), 20, axis=0) + rng.normal(0, 0.1, (60, 2))
    answer = fit_probabilities(features.astype(np.float16), labels, 2)
    assert answer.argmax(dim=1).tolist() == [0] * 20 + [1] * 40


def test_logits_are_those_of_the_model(pictures: Path, tmp_path: Path) -> None:
    path = write_teacher(tmp_path, logits="logits", mean=[0.5, 0.5, 0.5], std=[0.2, 0.3, 0.4], interpolation="bicubic")
    outputs = compute(path, pictures, tmp_path / "cache")
    sample = open_dataset(pictures).samples[7]
    x = pixel_values(ImageCache(0).read(sample), read_description(path))[None]
    weights = {
        each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "teacher.onnx").graph.initializer
    }
    maps = torch.relu(torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(weights["kernel"].copy())))
    logits = maps.mean(dim=(2, 3)) @ torch.from_numpy(weights["linear"].copy())
    torch.testing.assert_close(outputs.probabilities[7], torch.softmax(logits, dim=1)[0], atol=2e-3, rtol=0)


def test_outputs_are_computed_once_and_an_interrupted_run_goes_on(pictures: Path, tmp_path: Path) -> None:
    path, cache = write_teacher(tmp_path), tmp_path / "cache"
    first = compute(path, pictures, cache).features
    assert first is not None
    (kept,) = cache.rglob("*.npy")
    rows: NDArray[np.float16] = np.load(kept)
    rows[0], rows[64:] = 1, np.nan  # as if row 0 were computed already, and those from 64 not yet
    np.save(kept, rows)
    again = compute(path, pictures, cache).features
    assert again is not None
    assert bool((again[0] == 1).all())
    assert torch.equal(again[64:], first[64:])


def test_a_student_learns_labels_probabilities_and_features(pictures: Path, tmp_path: Path) -> None:
    options = (
        "--teacher",
        write_teacher(tmp_path),
        "--mixup=0.2",
        "--epochs=4",
        "--dropout=0",
        "--clip-gradients=5",
        "--sharpen=1",
    )
    angles = {}
    for weight in (0, 30):
        out = tmp_path / f"run{weight}"
        more = ("--unlabelled", pictures / "disc", "--feature-weight", weight)
        run = train("--data", pictures, "--out", out, "--teacher-cache", tmp_path / "cache", *options, *more).check()
        assert "the teacher is right on" in run.stderr
        assert Bundle.open(out / "bundle").manifest.validation["teacher"] == "teacher.json"
        angles[weight] = _cosine(out / "bundle", tmp_path / "teacher.json", pictures)
    assert angles[30] > angles[0] + 0.05


def _cosine(bundle: Path, teacher: Path, pictures: Path) -> float:
    import ghostzoo

    files = sorted(pictures.rglob("*.png"))
    with ghostzoo.load(bundle, engine="onnxruntime", threads=1) as classifier:
        ours = np.stack([np.asarray(each) for each in classifier.embed(files)])
    theirs = compute(teacher, pictures, teacher.parent / "all").features
    assert theirs is not None
    samples = [str(sample.path) for sample in open_dataset(pictures).samples]
    theirs = theirs[[samples.index(str(file)) for file in files]].float()
    return float(torch.nn.functional.cosine_similarity(torch.from_numpy(ours), theirs, dim=1).mean())


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"image_size": 40}, "8 <= image_size <= resize_short"),
        ({"interpolation": "cubic"}, "interpolation must be one of bilinear, bicubic, area"),
        ({"std": [1, 1]}, "std must be a list of three numbers"),
        ({"feature": None}, 'name an output of the model as "feature", "logits" or both'),
        ({"size": 3}, "unexpected keyword argument 'size'"),
        ({"feature": "other"}, "it has 1 and feature, logits"),
        ({"model": "none.onnx"}, "none.onnx cannot be read"),
        ({"model": "teacher.json"}, "ONNX Runtime does not run the teacher teacher.json"),
    ],
)
def test_a_wrong_description_is_one_clear_error(
    pictures: Path, tmp_path: Path, entries: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        compute(write_teacher(tmp_path, **entries), pictures, tmp_path / "cache")


def test_a_teacher_of_other_classes_is_refused(pictures: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    two.mkdir()
    for name in ("disc", "plain"):
        (two / name).symlink_to(pictures / name)
    with pytest.raises(GhostZooError, match="has 3 classes, the data have 2; name its"):
        compute(write_teacher(tmp_path, logits="logits"), two, tmp_path / "cache")


def test_a_feature_of_another_size_cannot_be_pointed_at(pictures: Path, tmp_path: Path) -> None:
    options = ("--teacher", write_teacher(tmp_path, features=64), "--feature-weight=1", "--epochs=1", "--quiet")
    message = train("--data", pictures, "--out", tmp_path / "run", *options).error()
    assert "a feature of 1280 numbers" in message


def test_a_bundle_has_no_feature_to_point_at(pictures: Path, tmp_path: Path) -> None:
    message = train("--data", pictures, "--out", tmp_path, "--teacher", tmp_path, "--feature-weight=1").error()
    assert "feature-weight needs a teacher with a feature" in message

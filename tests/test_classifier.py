from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import ghostzoo
from ghostzoo import Classifier, ImageError, InputError, OptionError, Prediction
from ghostzoo.bundle.folder import Bundle


@pytest.fixture(scope="module")
def classifier(tiny_bundle: Bundle) -> Iterator[Classifier]:
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as clf:
        yield clf


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten different JPEG files."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = []
    for index in range(10):
        coarse = rng.integers(0, 256, (4, 5, 3), np.uint8)
        path = folder / f"{index}.jpg"
        cv2.imwrite(str(path), cv2.resize(coarse, (90 + index, 70)))
        paths.append(path)
    return paths


def test_one_image_gives_its_best_classes(classifier: Classifier, pictures: list[Path]) -> None:
    top = classifier(pictures[0])
    assert len(top) == 5
    assert all(isinstance(prediction, Prediction) for prediction in top)
    assert [p.score for p in top] == sorted((p.score for p in top), reverse=True)
    probabilities = classifier.probabilities(pictures[0])
    assert top[0].index == int(probabilities[0].argmax())
    assert top[0].score == float(probabilities.max())
    assert top[0].label == classifier.bundle.labels[top[0].index].label
    assert len(classifier(pictures[0], top_k=2)) == 2


def test_every_kind_of_source_gives_the_same_answer(classifier: Classifier, pictures: list[Path]) -> None:
    path = pictures[3]
    expected = classifier(path)
    rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    for source in (str(path), path.read_bytes(), Image.open(path), rgb, np.asfortranarray(rgb)):
        assert classifier(source) == expected
    with path.open("rb") as file:
        assert classifier(file) == expected


def test_many_at_once_equal_one_by_one(classifier: Classifier, pictures: list[Path]) -> None:
    logits = classifier.logits(pictures, batch_size=4)
    assert logits.shape == (10, classifier.bundle.num_classes)
    assert logits.dtype == np.float32
    single = np.concatenate([classifier.logits(path) for path in pictures])
    np.testing.assert_allclose(logits, single, atol=1e-5 * np.abs(single).max())
    np.testing.assert_allclose(classifier.probabilities(pictures).sum(axis=1), 1, rtol=1e-5)
    assert classifier.embed(pictures).shape == (10, 1280)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_predict_gives_one_result_an_input_in_order(
    classifier: Classifier, pictures: list[Path], batch_size: int
) -> None:
    results = list(classifier.predict(pictures, top_k=3, batch_size=batch_size))
    assert [[p.index for p in top] for top in results] == [[p.index for p in classifier(x, 3)] for x in pictures]


def test_predict_takes_folders_patterns_and_generators(classifier: Classifier, pictures: list[Path]) -> None:
    folder = pictures[0].parent
    expected = list(classifier.predict(pictures))
    assert list(classifier.predict(folder)) == expected
    assert list(classifier.predict(f"{folder}/*.jpg")) == expected
    assert list(classifier.predict(path for path in pictures)) == expected


def test_predict_is_lazy(classifier: Classifier, pictures: list[Path]) -> None:
    taken: list[Path] = []

    def source() -> Iterator[Path]:
        for path in pictures:
            taken.append(path)
            yield path

    results = classifier.predict(source(), batch_size=2)
    assert taken == []
    next(results)
    assert len(taken) == 2


def test_predict_checks_its_arguments_at_once(classifier: Classifier, pictures: list[Path]) -> None:
    for wrong in ({"top_k": 0}, {"batch_size": 0}, {"batch_size": 2.5}, {"on_error": "ignore"}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            classifier.predict(pictures, **wrong)  # type: ignore[call-overload]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_an_unreadable_image_raises_after_those_before_it(
    classifier: Classifier, pictures: list[Path], tmp_path: Path, batch_size: int
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    results = classifier.predict([*pictures[:6], bad, *pictures[6:]], batch_size=batch_size)
    for path in pictures[:6]:
        assert next(results)[0].index == classifier(path)[0].index
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        next(results)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_errors_can_be_returned_in_place(
    classifier: Classifier, pictures: list[Path], tmp_path: Path, batch_size: int
) -> None:
    missing = tmp_path / "missing.jpg"
    mixed: list[Any] = [missing, pictures[0], missing, missing, *pictures[1:], missing]
    results = list(classifier.predict(mixed, batch_size=batch_size, on_error="return"))
    assert len(results) == len(mixed)
    for source, result in zip(mixed, results, strict=True):
        if source is missing:
            assert isinstance(result, ImageError)
            assert result.source == str(missing)
        else:
            assert not isinstance(result, ImageError)
            assert [p.index for p in result] == [p.index for p in classifier(source)]


def test_a_failing_iterable_loses_no_earlier_result(classifier: Classifier, pictures: list[Path]) -> None:
    def source() -> Iterator[Path]:
        yield from pictures[:3]
        raise RuntimeError("the caller's own failure")

    results = classifier.predict(source(), batch_size=100)
    assert len([next(results) for _ in range(3)]) == 3
    with pytest.raises(RuntimeError, match="the caller's own failure"):
        next(results)


def test_nothing_to_classify_gives_nothing(classifier: Classifier) -> None:
    assert list(classifier.predict([])) == []
    assert classifier.logits([]).shape == (0, classifier.bundle.num_classes)
    assert classifier.embed([]).shape == (0, 1280)


def test_a_call_refuses_several_images(classifier: Classifier, pictures: list[Path]) -> None:
    for several in (pictures, pictures[0].parent):
        with pytest.raises(InputError, match="predict"):
            classifier(several)
    with pytest.raises(InputError):
        classifier(42)


def test_the_callers_objects_stay_as_they_are(classifier: Classifier, pictures: list[Path]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    kept = array.copy()
    image = Image.fromarray(array).convert("RGBA")
    sources = [array, image]
    classifier.logits(sources)
    np.testing.assert_array_equal(array, kept)
    assert image.mode == "RGBA"
    assert len(sources) == 2


def test_many_threads_get_their_own_answers(classifier: Classifier, pictures: list[Path]) -> None:
    expected = [classifier(path) for path in pictures[:8]]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(classifier, pictures[:8])) == expected
        assert all(pool.map(lambda _: list(classifier.predict(pictures[:8], batch_size=1)) == expected, range(8)))


def test_self_check_holds(classifier: Classifier) -> None:
    assert classifier.self_check().within(1e-5)


def test_closing_frees_the_model(tiny_bundle: Bundle, pictures: list[Path]) -> None:
    with ghostzoo.load(str(tiny_bundle.path), threads=1) as clf:
        clf(pictures[0])
    with pytest.raises(ghostzoo.EngineError, match="closed"):
        clf(pictures[0])


def test_load_names_what_is_wrong(tmp_path: Path, tiny_bundle: Bundle) -> None:
    with pytest.raises(ghostzoo.UnknownModelError, match="GhostNet_x1_0"):
        ghostzoo.load("GhostNet_x10")
    with pytest.raises(ghostzoo.FetchError, match="ghostzoo pull GhostNet_x1_0"):
        ghostzoo.load("GhostNet_x1_0", offline=True)
    with pytest.raises(ghostzoo.BundleError, match=r"no such folder"):
        ghostzoo.load(tmp_path / "absent")
    with pytest.raises(ghostzoo.BundleError, match=r"no ghostzoo\.json"):
        ghostzoo.load(tmp_path)
    with pytest.raises(ghostzoo.UnknownEngineError, match="onnxruntime"):
        ghostzoo.load(tiny_bundle.path, engine="onyxruntime")


def test_the_bundle_can_be_read_after_loading(classifier: Classifier) -> None:
    assert len(classifier.bundle.model()) > 10_000
    assert classifier.bundle.origin == "folder"
    assert classifier.bundle.name in repr(classifier)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_arrays_have_a_row_for_each_image_or_raise(
    classifier: Classifier, pictures: list[Path], tmp_path: Path, batch_size: int
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    for method in (classifier.logits, classifier.probabilities, classifier.embed):
        assert len(method(pictures, batch_size=batch_size)) == len(pictures)
        with pytest.raises(ImageError, match=r"bad\.jpg"):
            method([pictures[0], bad, pictures[1]], batch_size=batch_size)

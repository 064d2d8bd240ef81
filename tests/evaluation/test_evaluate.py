from __future__ import annotations

import csv
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import ghostzoo
from ghostzoo import Classifier, InputError
from ghostzoo.bundle.folder import Bundle
from ghostzoo.catalog import find_record, get_model
from ghostzoo.evaluation import datasets
from ghostzoo.evaluation.datasets import ImageDataset, open_dataset
from ghostzoo.evaluation.evaluate import Proportion, evaluate, open_labelled, take_evenly, with_model_classes
from ghostzoo.evaluation.report import class_ticks, confusion_picture, write_report
from ghostzoo.labels import ClassLabel, imagenet_labels


@pytest.fixture(scope="module")
def classifier(tiny_bundle: Bundle) -> Iterator[Classifier]:
    with ghostzoo.load(tiny_bundle.path, threads=1) as clf:
        yield clf


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures each of three of the seven classes."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in ("class-0", "class-3", "Class-6"):
        (folder / name).mkdir()
        for index in range(4):
            picture = cv2.resize(rng.integers(0, 256, (5, 5, 3), np.uint8), (70, 80))
            cv2.imwrite(str(folder / name / f"{index}.png"), picture)
    return folder


def test_wilson_interval() -> None:
    # Values of R's binom.confint(methods = "wilson").
    low, high = Proportion(80, 100).interval
    assert (low, high) == pytest.approx((0.7111708, 0.8666331), abs=1e-6)
    assert Proportion(0, 10).interval == pytest.approx((0.0, 0.2775328), abs=1e-6)
    assert Proportion(10, 10).interval[1] == 1.0
    assert Proportion(80, 100).agrees_with(0.75)
    assert not Proportion(80, 100).agrees_with(0.70)
    assert not Proportion(80, 100).agrees_with(0.90)
    assert Proportion(80, 100).agrees_with(low)
    assert Proportion(80, 100).agrees_with(high)
    assert Proportion(0, 0).interval == (0.0, 1.0)


def test_figures_are_those_counted_by_hand(classifier: Classifier, data: Path) -> None:
    dataset = open_labelled(data, classifier.bundle.labels)
    paths = [sample.path for sample in dataset.samples]
    probabilities = classifier.probabilities(paths)
    truth = np.array([int(path.parent.name[-1]) for path in paths])
    order = np.argsort(-probabilities, axis=1)
    result = evaluate(classifier, dataset)
    assert result.top1 == Proportion(int((order[:, 0] == truth).sum()), 12)
    assert result.top5 == Proportion(int((order[:, :5] == truth[:, None]).any(axis=1).sum()), 12)
    for index in range(7):
        assert result.class_recall(index).total == int((truth == index).sum())
        assert result.class_precision(index).total == int((order[:, 0] == index).sum())
    wrong = sorted((p.max() for p, t in zip(probabilities, truth, strict=True) if p.argmax() != t), reverse=True)
    assert [mistake.score for mistake in result.mistakes] == pytest.approx(wrong, rel=1e-5)
    assert result.to_dict()["classes"][0]["label"] == "class-0"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_the_mistakes_the_worst_are_kept(classifier: Classifier, data: Path, count: int) -> None:
    dataset = open_labelled(data, classifier.bundle.labels)
    every = evaluate(classifier, dataset).mistakes
    assert len(every) > 3
    assert list(every) == sorted(every, key=lambda mistake: mistake.score, reverse=True)
    assert evaluate(classifier, dataset, max_mistakes=count).mistakes == every[:count]


def test_a_tar_and_a_list_give_the_same(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    expected = evaluate(classifier, open_labelled(data, classifier.bundle.labels))
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        tar.add(data, "val")
    listing = data / "val_list.txt"
    lines = [f"{path.relative_to(data)} {path.parent.name[-1]}" for path in sorted(data.rglob("*.png"))]
    listing.write_text("\n".join(lines) + "\n")
    for source in (tmp_path / "data.tar", listing):
        result = evaluate(classifier, open_labelled(source, classifier.bundle.labels))
        np.testing.assert_array_equal(result.confusion, expected.confusion)
    listing.unlink()


def test_unreadable_images_are_listed_and_not_counted(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "class-3" / "broken.jpg").write_bytes(b"no image")
    result = evaluate(classifier, open_labelled(folder, classifier.bundle.labels))
    assert result.top1.total == 12
    assert [error.source for error in result.unreadable] == ["class-3/broken.jpg"]


def test_only_unreadable_images_are_an_error(classifier: Classifier, tmp_path: Path) -> None:
    for name in ("class-0", "class-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="None of the 2 images"):
        evaluate(classifier, open_labelled(tmp_path, classifier.bundle.labels))


def dataset_of(*names: str) -> ImageDataset:
    return ImageDataset((), names)


def test_classes_are_matched_by_wnid_label_synonym_or_index() -> None:
    labels = imagenet_labels()
    classes = with_model_classes(dataset_of("n02123045", "Golden_Retriever", "tench", "999"), labels).classes
    assert classes == tuple(label.label for label in labels)
    for wrong in ("no such class", "crane", "1000"):  # two of ImageNet's classes are called crane
        with pytest.raises(InputError, match=wrong):
            with_model_classes(dataset_of("tench", wrong), labels)


def test_indices_follow_the_models_classes(data: Path, classifier: Classifier) -> None:
    dataset = with_model_classes(open_dataset(data), classifier.bundle.labels)
    assert {(sample.name.split("/")[0], sample.label) for sample in dataset.samples} == {
        ("class-0", 0),
        ("class-3", 3),
        ("Class-6", 6),
    }


def test_a_limit_keeps_the_share_of_every_class(data: Path, classifier: Classifier) -> None:
    dataset = take_evenly(open_labelled(data, classifier.bundle.labels), 6)
    assert sorted(sample.label for sample in dataset.samples) == [0, 0, 3, 3, 6, 6]
    assert take_evenly(dataset, None) is dataset
    assert take_evenly(dataset, 100) is dataset


def test_published_figures_stand_beside_the_measured_ones(classifier: Classifier, data: Path) -> None:
    figures = get_model("GhostNet_x1_0").published
    result = evaluate(classifier, open_labelled(data, classifier.bundle.labels), published=figures)
    for right, agrees in ((7402, True), (7500, False)):
        measured = replace(result, top1=Proportion(right, 10_000))
        assert (
            measured.to_dict()["published"] | {"top1": 0.7402, "top1_agrees": agrees} == measured.to_dict()["published"]
        )


def test_figures_are_compared_for_the_official_weights_only() -> None:
    record = get_model("GhostNet_x1_0")
    assert find_record("GhostNet_x1_0", record.weights_url) is record
    assert find_record("GhostNet_x1_0", None) is None
    assert find_record("mine", record.weights_url) is None


def test_what_is_no_image_is_counted(data: Path, classifier: Classifier, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(data, folder)
    assert open_labelled(folder, classifier.bundle.labels).passed_over == 0
    (folder / "class-0" / "no-suffix").write_bytes(next((folder / "class-0").iterdir()).read_bytes())
    (folder / "class-0" / ".hidden.jpg").touch()
    assert take_evenly(open_labelled(folder, classifier.bundle.labels), 5).passed_over == 2
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        archive.add(folder, "data")
    assert open_labelled(tmp_path / "data.tar", classifier.bundle.labels).passed_over == 1


def test_a_class_folder_without_images_is_refused(data: Path, classifier: Classifier, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "all")
    (tmp_path / "all" / "class-5").mkdir()
    with pytest.raises(InputError, match=r"1 class folder.*class-5; add images"):
        open_labelled(tmp_path, classifier.bundle.labels)


def test_the_images_of_one_class_are_measured(data: Path, classifier: Classifier, tmp_path: Path) -> None:
    shutil.copytree(data / "class-3", tmp_path / "one" / "class-3")
    with tarfile.open(tmp_path / "one.tar", "w") as archive:
        archive.add(tmp_path / "one", "val")
    for source in (tmp_path / "one", tmp_path / "one.tar"):
        result = evaluate(classifier, open_labelled(source, classifier.bundle.labels))
        assert (result.top1.total, result.class_recall(3).total) == (4, 4)


def test_the_only_class_folder_may_have_folders(data: Path, classifier: Classifier, tmp_path: Path) -> None:
    for session in ("monday", "tuesday"):
        shutil.copytree(data / "class-3", tmp_path / "sessions" / "val" / "class-3" / session)
    dataset = open_labelled(tmp_path / "sessions", classifier.bundle.labels)
    assert Counter(sample.label for sample in dataset.samples) == {3: 8}
    # A folder above whose name is one of a class, too, is none where those below it are.
    shutil.copytree(data, tmp_path / "above" / "class-5")
    dataset = open_labelled(tmp_path / "above", classifier.bundle.labels)
    assert Counter(sample.label for sample in dataset.samples) == {0: 4, 3: 4, 6: 4}
    shutil.copytree(data / "class-3", tmp_path / "strange" / "a" / "b")
    with pytest.raises(InputError, match="1 of 1 class names do not match exactly one class of the model: b"):
        open_labelled(tmp_path / "strange", classifier.bundle.labels)


def test_links_to_class_folders_are_followed(data: Path, classifier: Classifier, tmp_path: Path) -> None:
    shutil.copytree(data / "class-0", tmp_path / "linked" / "class-0")
    (tmp_path / "linked" / "class-3").symlink_to(data / "class-3")
    (tmp_path / "linked" / "class-6").symlink_to("class-0")
    dataset = open_labelled(tmp_path / "linked", classifier.bundle.labels)
    counted = Counter((sample.name.split("/")[0], sample.label) for sample in dataset.samples)
    assert counted == {("class-0", 0): 4, ("class-3", 3): 4, ("class-6", 6): 4}
    assert dataset.passed_over == 0
    assert evaluate(classifier, dataset).top1.total == 12


@pytest.mark.parametrize("target", ["..", ".", "../..", "../class-3", "/"])
def test_links_in_a_circle_are_refused(target: str, data: Path, classifier: Classifier, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "class-0" / "again").symlink_to(target)
    if target == "../class-3":
        (tmp_path / "data" / "class-3" / "back").symlink_to(tmp_path / "data" / "class-0")
    with pytest.raises(InputError, match=r"The link .* forms a loop: it leads back to .*; remove the link"):
        open_labelled(tmp_path / "data", classifier.bundle.labels)


def test_many_links_in_circles_cost_little(classifier: Classifier, tmp_path: Path) -> None:
    for index in range(12):
        (tmp_path / f"class-{index}").mkdir()
        for other in range(12):
            (tmp_path / f"class-{index}" / f"to-{other}").symlink_to(tmp_path / f"class-{other}")
    with pytest.raises(InputError, match="forms a loop"):
        open_labelled(tmp_path, classifier.bundle.labels)


def test_an_image_that_cannot_be_had_does_not_end_it(
    data: Path, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        archive.add(data, "data")
    dataset = open_labelled(tmp_path / "data.tar", classifier.bundle.labels)
    largest = max(sample.size for sample in dataset.samples)
    monkeypatch.setattr(datasets, "MAX_IMAGE_BYTES", largest - 1)
    result = evaluate(classifier, dataset)
    assert result.top1.total + len(result.unreadable) == len(dataset.samples)
    assert result.unreadable
    assert all("are more than" in error.reason for error in result.unreadable)


def test_the_report_is_written_whole(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the report, is not installed here")
    result = evaluate(classifier, open_labelled(data, classifier.bundle.labels))
    files = write_report(result, tmp_path / "report")
    assert sorted(path.name for path in files) == ["classes.csv", "confusion.png", "mistakes.png", "report.json"]
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(path.name for path in files)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["top1"]["right"] == result.top1.right
    with (tmp_path / "report" / "classes.csv").open() as file:
        assert sum(int(row["images"]) for row in csv.DictReader(file)) == 12
    for name in ("confusion.png", "mistakes.png"):
        picture = cv2.imread(str(tmp_path / "report" / name))
        assert picture.shape[0] > 100
        assert picture.std() > 10


def test_a_report_without_mistakes_has_no_picture_of_them(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the report, is not installed here")
    result = evaluate(classifier, open_labelled(data, classifier.bundle.labels))
    write_report(result, tmp_path)
    assert (tmp_path / "mistakes.png").exists()
    for _ in range(2):
        files = write_report(replace(result, mistakes=()), tmp_path)
        assert sorted(path.name for path in files) == ["classes.csv", "confusion.png", "report.json"]
        assert not (tmp_path / "mistakes.png").exists()


def test_a_list_names_its_classes_by_number_if_nobody_else_does(data: Path) -> None:
    listing = data / "numbers.txt"
    listing.write_text("class-0/0.png 2\nclass-3/0.png 0\n")
    assert open_dataset(listing).classes == ("class_0", "class_1", "class_2")
    assert open_dataset(listing, classes=["a", "b", "c", "d"]).classes == ("a", "b", "c", "d")
    with pytest.raises(InputError, match="class index 2, but the model has 2 classes"):
        open_dataset(listing, classes=["a", "b"])


def test_the_report_holds_no_formulas(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the report, is not installed here")
    result = evaluate(classifier, open_labelled(data, classifier.bundle.labels))
    labels = (ClassLabel("=1+1"), *result.labels[1:])
    write_report(replace(result, labels=labels), tmp_path / "report")
    with (tmp_path / "report" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["label"] == "'=1+1"
    assert rows[1]["label"] == "class-3"


def test_a_report_folder_that_cannot_be_made_is_one_error(classifier: Classifier, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the report, is not installed here")
    (tmp_path / "file").write_text("in the way")
    result = evaluate(classifier, open_labelled(data, classifier.bundle.labels))
    with pytest.raises(InputError, match="Cannot write the report"):
        write_report(result, tmp_path / "file")


def test_one_label_for_two_classes_needs_their_index() -> None:
    labels = [ClassLabel("bank"), ClassLabel("bank"), ClassLabel("river")]
    with pytest.raises(InputError, match="bank"):
        with_model_classes(dataset_of("bank", "river"), labels)
    assert with_model_classes(dataset_of("0", "1", "river"), labels).classes == ("bank", "bank", "river")


def test_the_axes_of_a_confusion_matrix_are_named_however_many() -> None:
    labels = imagenet_labels()

    def written(index: int) -> str:
        return labels[index].label.partition(",")[0]

    assert class_ticks(written, [0, 5, 999]) == (1, ["tench", "electric ray", "toilet tissue"])
    step, names = class_ticks(written, range(1000))
    assert (step, len(names)) == (25, 40)
    assert (names[0], names[4]) == ("0 tench", "100 black swan")
    step, names = class_ticks(written, range(0, 1000, 20))  # those that were seen
    assert (step, len(names), names[1]) == (2, 25, "40 American chameleon")
    assert class_ticks(written, []) == (1, [])


def test_a_confusion_matrix_of_a_thousand_classes_is_drawn(classifier: Classifier, data: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the report, is not installed here")
    result = evaluate(classifier, open_labelled(data, classifier.bundle.labels))
    many = replace(result, labels=imagenet_labels(), confusion=np.eye(1000, dtype=np.int64))
    picture = cv2.imdecode(np.frombuffer(confusion_picture(many), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert min(picture.shape[:2]) > 1500  # the names are legible

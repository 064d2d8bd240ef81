"""Names of classes for people, and groups of classes."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import ghostzoo
from exporters.wordnet import TABLE, read_ranks, read_synsets, table
from ghostzoo import Classifier
from ghostzoo.bulk.columns import Task
from ghostzoo.bundle.folder import Bundle
from ghostzoo.calibration import Calibration
from ghostzoo.cli import main
from ghostzoo.errors import InputError, OptionError
from ghostzoo.groups import BASIC, BASIC_GROUPS, group_names
from ghostzoo.labels import ClassLabel, imagenet_labels
from ghostzoo.names import has_names, named, names_in, preferred
from ghostzoo.predictions import Choice, Postprocessing

PHOTO = Path(__file__).parents[1] / "examples" / "chelsea.png"
WORDNET = Path(os.environ.get("GHOSTZOO_WORDNET", "/usr/share/wordnet"))
DOGS = range(151, 269)
"""ImageNet has them in a row, from the Chihuahua to the Mexican hairless."""


@pytest.fixture(scope="module")
def bundled() -> Iterator[Classifier]:
    with ghostzoo.load("GhostNet_x0_5_cifar10", engine="onnxruntime", threads=1) as classifier:
        yield classifier


@pytest.fixture
def logits() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(3).normal(0, 2, (5, 1000)).astype(np.float32)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_class_has_a_name_of_its_own(language: str) -> None:
    names = [each.label for each in named(imagenet_labels(), language)]
    assert len(set(names)) == 1000
    assert all(name == name.strip() and "," not in name for name in names)
    if language == "zh":
        assert [name for name in names if not re.search("[\u4e00-\u9fff]", name)] == ["iPod"]
        groups = {names_in("zh")[wnid] for wnid in names_in("zh").keys() - {each.wnid for each in imagenet_labels()}}
        assert len(groups) == 475
        assert not groups & set(names)


def test_the_crane_is_told_from_the_crane() -> None:
    own, english, chinese = imagenet_labels(), named(imagenet_labels(), "en"), named(imagenet_labels(), "zh")
    assert (own[134].label, own[517].label) == ("crane", "crane")
    assert (english[134].label, english[517].label) == ("crane (bird)", "crane (machine)")
    assert (chinese[134].label, chinese[517].label) == ("鹤", "起重机")
    assert english[134].wnid == own[134].wnid


@pytest.mark.parametrize(
    ("index", "name"),
    [
        (15, "旅鸫"),
        (76, "捕鸟蛛"),
        (77, "狼蛛"),
        (97, "公鸭"),
        (115, "海蛞蝓"),
        (427, "木桶"),
        (666, "研钵"),
        (677, "钉子"),
    ],
)
def test_names_that_the_source_has_wrong_are_corrected(index: int, name: str) -> None:
    assert named(imagenet_labels(), "zh")[index].label == name


def test_the_dogs_add_up(logits: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    postprocessing = Postprocessing(imagenet_labels())
    scores = postprocessing.probabilities(logits)
    assert group_names(imagenet_labels())["dog"] == list(DOGS)
    for row, found in zip(scores, postprocessing.predictions(logits, Choice(1000, group="dog")), strict=True):
        assert len(found) == 1000 - len(DOGS) + 1
        assert sum(each.score for each in found) == pytest.approx(1, abs=1e-6)
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
        (dog,) = (each for each in found if each.best is not None)
        assert (dog.label, dog.wnid) == ("dog", "n02084071")
        assert dog.score == pytest.approx(row[DOGS].sum(), abs=1e-6)
        assert dog.best is not None
        assert dog.index == dog.best.index == DOGS[row[DOGS].argmax()]
        assert dog.best.score == row[dog.index]


def test_scores_of_groups_are_calibrated_and_bounded(logits: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    calibration = Calibration(0.5, 100, {}, (0.0, 1.0))
    postprocessing = Postprocessing(imagenet_labels(), calibration=calibration)
    found = postprocessing.predictions(logits, Choice(3, 0.01, group=BASIC))
    for row, best in zip(postprocessing.probabilities(logits), found, strict=True):
        sums = np.sort(Postprocessing(imagenet_labels()).grouping(BASIC).sums(row))[::-1]
        assert [each.score for each in best] == sums[:3][sums[:3] >= 0.01].tolist()


def test_the_basic_groups_are_there_and_the_smallest_counts() -> None:
    known = group_names(imagenet_labels())
    assert set(BASIC_GROUPS.split(", ")) - known.keys() == {"deer"}  # which CIFAR-10 has
    items = {
        group.names[0]: classes
        for group, classes in Postprocessing(imagenet_labels()).grouping("animal, dog, n02120997").items
        if group
    }
    assert items["dog"] == list(DOGS)
    assert items["feline"] == known["feline"]
    assert sorted(chain.from_iterable(items.values())) == known["animal"]


def test_the_bundled_model_has_names_and_groups(bundled: Classifier) -> None:
    with ghostzoo.load("GhostNet_x0_5_cifar10", engine="onnxruntime", threads=1, labels="zh-CN") as chinese:
        ours, theirs = bundled(PHOTO, 10), chinese(PHOTO, 10)
        assert [(each.index, each.score, each.wnid) for each in ours] == [
            (each.index, each.score, each.wnid) for each in theirs
        ]
        assert (ours[0].label, theirs[0].label) == ("cat", "猫")
        animal, vehicle = chinese(PHOTO, group=["animal", "vehicle"])
        assert (animal.label, vehicle.label) == ("动物", "交通工具")
        assert chinese(PHOTO, 1, group="动物") == [*chinese(PHOTO, 1, group="animal")]
        assert animal.score + vehicle.score == pytest.approx(1, abs=1e-6)
    assert animal.best is not None
    assert animal.to_dict()["best"] == animal.best.to_dict()


def test_names_of_ones_own_are_taken_and_groups_stay(bundled: Classifier) -> None:
    names = [f"klasse {index}" for index in range(10)]
    with ghostzoo.load("GhostNet_x0_5_cifar10", engine="onnxruntime", threads=1, labels=names) as classifier:
        assert classifier(PHOTO)[0].label == "klasse 3"
        assert classifier.groups == bundled.groups


def test_names_go_along_to_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("\n".join(f"klasse {index}" for index in range(10)))
    for labels, label in (("names.txt", "klasse 3"), ("zh", "猫")):
        with ghostzoo.load("GhostNet_x0_5_cifar10", engine="onnxruntime", threads=1, labels=labels) as classifier:
            content = pickle.dumps(classifier)
        monkeypatch.chdir("/")
        with pickle.loads(content) as again:
            assert again(PHOTO)[0].label == label


def test_the_command_line_names_and_groups() -> None:
    words = ["predict", str(PHOTO), "--model", "GhostNet_x0_5_cifar10", "--engine", "onnxruntime", "--lang", "zh"]
    printed = CliRunner().invoke(main, [*words, "--group", "animal", "--group", "vehicle"]).stdout
    assert [line.split()[1:] for line in printed.splitlines()[2:]] == [
        ["3", "n00015388", "动物:", "猫"],
        ["1", "n04524313", "交通工具:", "汽车"],
    ]
    result = CliRunner().invoke(main, [*words[:-1], "fr"])
    assert result.exit_code == 2
    assert "'en', 'zh'" in result.output


@pytest.mark.skipif(not WORDNET.is_dir(), reason=f"WordNet is not in {WORDNET}, which GHOSTZOO_WORDNET may name")
def test_the_groups_are_those_of_wordnet() -> None:
    synsets, ranks = read_synsets(WORDNET / "data.noun"), read_ranks(WORDNET / "index.noun")
    assert TABLE.read_text(encoding="utf-8") == table(synsets, ranks)


def test_folders_of_imagenet_have_names() -> None:
    labels = [ClassLabel("n02012849"), ClassLabel("n03126707")]
    assert [each.label for each in named(labels, "en")] == ["crane (bird)", "crane (machine)"]
    assert not has_names([*labels, ClassLabel("my cat")], "en")


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        ("dgo", "Did you mean dog"),
        ("tree house", "No group 'tree house' has classes of this model"),
        (" , ", "names no group"),
        (5, "must be the name of a group"),
    ],
)
def test_groups_that_are_not_there_are_one_sentence(bundled: Classifier, group: Any, reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        bundled(PHOTO, group=group)


def test_what_does_not_go_together_is_one_sentence(
    tiny_bundle: Bundle, multi_label_bundle: Bundle, bundled: Classifier, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=r"7 of the model's 7 classes, such as .* have no name in Chinese"):
        ghostzoo.load(tiny_bundle.path, labels="zh")
    with pytest.raises(OptionError, match="no names in 'fr', only in en and zh"):
        ghostzoo.load(tiny_bundle.path, labels="fr")
    with pytest.raises(OptionError, match="None of the model's classes is in WordNet"):
        tiny_bundle.postprocessing.check(Choice(group="dog"))
    with pytest.raises(OptionError, match="multi-label"):
        multi_label_bundle.postprocessing.check(Choice(group="dog"))
    calibrated = Postprocessing(imagenet_labels(), calibration=Calibration(0.5, 100, {0.9: 0.1}, (0.0, 1.0)))
    with pytest.raises(OptionError, match="single classes"):
        calibrated.check(Choice(coverage=0.9, group="dog"))
    with pytest.raises(OptionError, match="No group 'tree house'"):
        _ = Task("GhostNet_x0_5_cifar10", ranking=(("group", "tree house"),)).classifier


def test_batch_takes_groups_and_names_and_holds_to_them(tmp_path: Path) -> None:
    def run(**options: Any) -> None:
        ghostzoo.batch(PHOTO, tmp_path / "out.jsonl", model="GhostNet_x0_5_cifar10", engine="onnxruntime", **options)

    run(group="animal", labels="zh", top_k=1)
    (part,) = (tmp_path / "out.jsonl").glob("*.jsonl")
    assert json.loads(part.read_text(encoding="utf-8").splitlines()[0])["label"] == "动物"
    with pytest.raises(InputError, match="another group and labels"):
        run(top_k=1, resume=True)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en;q=0.8, zh-TW ; q = 0.9", "zh"),
        ("zh;q=0.8,en;q=0.8", "zh"),
        ("fr, en;q=0.2", "en"),
        ("zh;q=0, *;q=0.1", None),
        ("*, zh;q=0.5", None),
        ("zh;q=much", None),
        ("de-CH", None),
        ("", None),
        (",;,=;q" * 1000, None),
    ],
)
def test_the_best_language_is_chosen(header: str, language: str | None) -> None:
    assert preferred(header, ["en", "zh"]) == language


def test_groups_that_another_thread_drops_meanwhile_are_had(
    bundled: Classifier,
) -> None:
    """Only so many are kept; here all are dropped as soon as they are."""

    class Dropping(dict[tuple[str, ...], Any]):
        def __setitem__(self, key: tuple[str, ...], value: Any) -> None:
            super().__setitem__(key, value)
            self.clear()

    postprocessing = replace(bundled.bundle.postprocessing, _groupings=Dropping())
    (found,) = {group.names[0] for group, _ in postprocessing.grouping("mammal").items if group is not None}
    assert found == "mammal"

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters.training.data import (
    DataSources,
    ImageCache,
    TrainingData,
    open_data,
    split_validation,
)
from exporters.training.distributed import Process
from exporters.training.loader import TrainingLoader, evaluation_batches
from ghostzoo.errors import InputError, OptionError
from ghostzoo.evaluation.datasets import ImageDataset, open_dataset
from tests.training.runs import EVERYTHING, recipe, train


@pytest.fixture
def copy(pictures: Path, tmp_path: Path) -> Path:
    """Pictures to spoil."""
    folder = tmp_path / "shapes"
    shutil.copytree(pictures, folder)
    return folder


def write_list(path: Path, pictures: Path) -> Path:
    names = sorted(folder.name for folder in pictures.iterdir())
    lines = [
        f"{file.relative_to(path.parent).as_posix()} {names.index(file.parent.name)}\n"
        for file in sorted(pictures.rglob("*.png"))
    ]
    path.write_text("".join(lines))
    return path


def test_folder_tar_and_list_file_give_the_same_weights(
    copy: Path, pictures_tar: Path, finished: Path, tmp_path: Path
) -> None:
    expected = (finished / "weights.pdparams").read_bytes()
    train("--data", pictures_tar, "--out", tmp_path / "tar", *EVERYTHING).check()
    assert (tmp_path / "tar" / "weights.pdparams").read_bytes() == expected
    listed = write_list(tmp_path / "train.txt", copy)
    (tmp_path / "labels.txt").write_text("0 disc\n2 stripes\n1 plain\n")
    train("--data", listed, "--labels", tmp_path / "labels.txt", "--out", tmp_path / "list", *EVERYTHING).check()
    assert (tmp_path / "list" / "weights.pdparams").read_bytes() == expected
    assert (tmp_path / "list/bundle/config.json").read_bytes() == (finished / "bundle/config.json").read_bytes()


def opened(path: Path, out: Path, **sources: Any) -> TrainingData:
    """Open the data as a run does."""
    chosen = DataSources(path, **sources)
    return open_data(chosen, out, seed=0, cache_bytes=0, workers=1, process=Process(), quiet=True)


def test_folder_and_tar_have_the_same_order(pictures: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("a", "a-b", "a.c"):
        (root / name).mkdir(parents=True)
        shutil.copy(pictures / "disc" / "00.png", root / name)
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        archive.add(root, "data")
    expected = [("a/00.png", 0), ("a-b/00.png", 1), ("a.c/00.png", 2)]
    for path in (root, tmp_path / "data.tar"):
        samples = opened(path, tmp_path).training.samples
        assert [(sample.name.removeprefix("data/"), sample.label) for sample in samples] == expected


def spoil(copy: Path) -> list[str]:
    (copy / "disc" / "03.png").write_bytes((copy / "disc" / "03.png").read_bytes()[:60])
    (copy / "plain" / "07.jpg").write_text("no picture")
    (copy / "stripes" / "09.png").write_bytes(b"")
    return ["disc/03.png", "plain/07.jpg", "stripes/09.png"]


def test_unreadable_images_are_counted_and_named(copy: Path, tmp_path: Path) -> None:
    names = spoil(copy)
    message = train("--data", copy, "--out", tmp_path / "run", "--epochs=1").error()
    assert "3 image(s) cannot be read: " in message
    assert all(name in message for name in names)
    assert "--skip-unreadable" in message
    assert [line.split(":")[0] for line in (tmp_path / "run" / "unreadable.txt").read_text().splitlines()] == names
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_unreadable_images_can_be_skipped(copy: Path, tmp_path: Path) -> None:
    spoil(copy)
    options = ("--epochs=1", "--val-split=0.2", "--skip-unreadable")
    run = train("--data", copy, "--out", tmp_path / "run", *options).check()
    assert "3 unreadable images left out" in run.stderr
    assert "- unreadable images left out: 3" in (tmp_path / "run" / "bundle" / "README.md").read_text()
    assert len((tmp_path / "run" / "unreadable.txt").read_text().splitlines()) == 3
    data = opened(copy, tmp_path, skip_unreadable=True)
    assert len(data.training.samples) == 118  # 120, less two of them; the text file was one more
    loader = TrainingLoader(data.training, ImageCache(0), recipe(batch_size=2), workers=1, rank=0, world_size=1)
    assert sum(len(labels) for _, labels in loader.batches(0)) == 118


def test_list_of_unreadable_images_goes_once_they_are_fixed(copy: Path, pictures: Path, tmp_path: Path) -> None:
    spoil(copy)
    train("--data", copy, "--out", tmp_path / "run", "--epochs=1").error()
    train("--data", pictures, "--out", tmp_path / "run", "--epochs=1").check()
    assert not (tmp_path / "run" / "unreadable.txt").exists()


def test_unreadable_validation_images_in_a_tar_count_too(copy: Path, pictures: Path, tmp_path: Path) -> None:
    spoil(copy)
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        archive.add(copy, "val")
    message = train("--data", pictures, "--val", tmp_path / "val.tar", "--out", tmp_path / "run").error()
    assert "3 image(s) cannot be read" in message
    assert "val/disc/03.png" in message


@pytest.mark.parametrize(
    ("spoil_data", "expected"),
    [
        (
            lambda data: [file.unlink() for file in (data / "plain").iterdir()],
            "1 class folder(s) hold no images",
        ),
        (lambda data: [shutil.rmtree(data / name) for name in ("plain", "disc")], "1 class; a classifier needs"),
        (lambda data: [file.unlink() for file in data.rglob("*.png")], "holds no image files"),
        (lambda data: shutil.rmtree(data), "There is nothing at"),
        (lambda data: (data / "stray.png").touch(), "are in no class folder, first stray.png"),
        (lambda data: [file.unlink() for file in list(data.rglob("*.png")) if file.stem != "00"], "--batch-size"),
    ],
    ids=["empty class", "one class", "no images", "no folder", "stray", "fewer than a batch"],
)
def test_unusable_training_data_is_one_clear_error(
    copy: Path, tmp_path: Path, spoil_data: object, expected: str
) -> None:
    spoil_data(copy)  # type: ignore[operator]
    assert expected in train("--data", copy, "--out", tmp_path / "run", "--epochs=1", "--quiet").error()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("shapes/disc/00.png zero\n", "line 1: expected '<path> <class index>'"),
        ("shapes/disc/00.png -1\n", "line 1: expected '<path> <class index>'"),
        ("\nshapes/disc/00.png\n", "line 2: expected '<path> <class index>'"),
        ("shapes/disc/00.png 0\nshapes/plain/00.png 3\n", "class index 3, but the model has 3 classes"),
        ("shapes/disc/00.png 0\nshapes/plain/00.png 2\n", "no readable training images of 1 class(es): 'plain'"),
        ("shapes/disc/00.png 0\nshapes/plain/none.png 1\nshapes/disc/01.png 2\n", "shapes/plain/none.png: cannot be"),
        ("", "lists no images"),
    ],
)
def test_a_bad_list_is_one_clear_error(copy: Path, tmp_path: Path, lines: str, expected: str) -> None:
    (tmp_path / "train.txt").write_text(lines)
    (tmp_path / "labels.txt").write_text("0 disc\n1 plain\n2 stripes\n")
    options = ("--data", tmp_path / "train.txt", "--labels", tmp_path / "labels.txt", "--out", tmp_path / "run")
    assert expected in train(*options).error()


def test_labels_of_folders_are_not_renamed(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("0 a\n1 b\n2 c\n")
    message = train("--data", pictures, "--labels", tmp_path / "labels.txt", "--out", tmp_path / "run").error()
    assert "--labels names the classes of a list file" in message


def test_a_missing_label_file_is_one_clear_error(copy: Path, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "train.txt", copy)
    message = train("--data", listed, "--labels", tmp_path / "none.txt", "--out", tmp_path / "run").error()
    assert "Cannot read the label file" in message


def test_validation_data_of_other_classes_are_refused(copy: Path, pictures: Path, tmp_path: Path) -> None:
    (copy / "plain").rename(copy / "plane")
    message = train("--data", pictures, "--val", copy, "--out", tmp_path / "run").error()
    assert "no class of the model: plane" in message


def test_unlabelled_images_need_a_teacher(pictures: Path, tmp_path: Path) -> None:
    message = train("--data", pictures, "--unlabelled", pictures, "--out", tmp_path / "run").error()
    assert "without a --teacher" in message


@pytest.mark.parametrize(("share", "taken"), [(0.01, 1), (0.25, 10), (0.9, 36)])
def test_split_holds_out_its_share_of_each_class(pictures: Path, share: float, taken: int) -> None:
    dataset = open_dataset(pictures)
    left, right = split_validation(dataset, share, seed=1)
    assert [sum(sample.label == label for sample in right.samples) for label in range(3)] == [taken] * 3
    assert sorted(s.name for s in left.samples + right.samples) == sorted(s.name for s in dataset.samples)
    assert split_validation(dataset, share, seed=1) == (left, right)
    assert split_validation(dataset, share, seed=2)[1] != right


def test_sources_join_their_classes_and_are_shown_by_their_shares(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.move(copy / "stripes", other / "waves")
    shutil.copytree(copy / "plain", other / "plain")
    data = opened(copy, tmp_path, more=((other, 0.25),), unlabelled=copy / "disc", unlabelled_share=1.5)
    assert data.training.classes == ("disc", "plain", "waves")
    assert [sample.label for sample in data.training.samples] == [0] * 40 + [1] * 40 + [1] * 40 + [2] * 40 + [-1] * 40
    loader = TrainingLoader(data.training, ImageCache(0), recipe(), workers=1, rank=0, world_size=1, groups=data.groups)
    assert loader.steps == (80 + 20 + 60) // 8
    shown = [np.concatenate([loader.indices(epoch, step) for step in range(loader.steps)]) for epoch in (0, 1)]
    for each in shown:
        counts = np.bincount(each, minlength=200)
        assert (counts[:80] == 1).all()
        assert sorted(counts[80:160]) == [0] * 60 + [1] * 20
        assert sorted(counts[160:]) == [1] * 20 + [2] * 20
    assert sorted(shown[0]) != sorted(shown[1])


def test_a_resumed_run_must_have_the_same_shares(pictures: Path, tmp_path: Path) -> None:
    options = ("--data", pictures, "--out", tmp_path / "run", "--epochs=2")
    train(*options, "--until=1", "--more", f"{pictures}:0.5").check()
    assert "shares of the sources" in train(*options, "--resume", "--quiet", "--more", f"{pictures}:0.7").error()
    train(*options, "--resume", "--more", f"{pictures}:0.5").check()


def test_a_class_of_one_image_cannot_be_split(pictures: Path) -> None:
    dataset = open_dataset(pictures)
    samples = tuple(sample for sample in dataset.samples if sample.label or sample.name == "disc/00.png")
    with pytest.raises(InputError, match="Class 'disc' has a single image"):
        split_validation(ImageDataset(samples, dataset.classes), 0.2, 0)


def test_batches_depend_on_seed_and_position_alone(pictures: Path) -> None:
    dataset, small = open_dataset(pictures), recipe(rand_augment=(2, 9.0))

    def batches(start: int, *, workers: int, cache: int, rank: int = 0, world: int = 1) -> list[bytes]:
        loader = TrainingLoader(dataset, ImageCache(cache), small, workers=workers, rank=rank, world_size=world)
        return [images.tobytes() + labels.tobytes() for images, labels in loader.batches(1, start)]

    whole = batches(0, workers=1, cache=0)
    assert len(whole) == 15
    assert batches(0, workers=3, cache=2**24) == whole
    assert batches(13, workers=1, cache=0) == whole[13:]
    assert batches(15, workers=1, cache=0) == []


def test_several_processes_share_each_step(pictures: Path) -> None:
    dataset, small = open_dataset(pictures), recipe()
    loaders = [TrainingLoader(dataset, ImageCache(0), small, workers=1, rank=rank, world_size=2) for rank in (0, 1)]
    alone = TrainingLoader(dataset, ImageCache(0), small, workers=1, rank=0, world_size=1)
    for first, second, both in zip(loaders[0].batches(0), loaders[1].batches(0), alone.batches(0), strict=True):
        assert (first[0] == both[0][0::2]).all()
        assert (second[0] == both[0][1::2]).all()
        assert (second[1] == both[1][1::2]).all()


def test_each_epoch_shuffles_and_repeats_no_image(pictures: Path) -> None:
    dataset = open_dataset(pictures)
    plain = recipe(crop_scale=1, flip=False)
    loader = TrainingLoader(dataset, ImageCache(0), plain, workers=1, rank=0, world_size=1)
    orders = [[label for _, labels in loader.batches(epoch) for label in labels] for epoch in (0, 1)]
    assert [orders[0].count(label) for label in range(3)] == [40, 40, 40]
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("batch", "world", "expected"), [(9, 2, "cannot be shared"), (4, 4, "fewer than the 2 images")]
)
def test_batches_that_processes_cannot_share_are_refused(pictures: Path, batch: int, world: int, expected: str) -> None:
    with pytest.raises(OptionError, match=expected):
        TrainingLoader(
            open_dataset(pictures), ImageCache(0), recipe(batch_size=batch), workers=1, rank=0, world_size=world
        )


def test_every_image_is_evaluated_once_across_processes(pictures: Path) -> None:
    dataset, small = open_dataset(pictures), recipe()
    for world in (1, 7):
        batches = [
            batch
            for rank in range(world)
            for batch in evaluation_batches(dataset, ImageCache(0), small.preprocessing, 16, rank, world)
        ]
        assert sum(len(labels) for _, labels in batches) == 120
        assert all(x.shape[1:] == (3, 32, 32) and len(x) <= 16 for x, _ in batches)


def test_the_cache_stays_within_its_limit(pictures: Path) -> None:
    dataset = open_dataset(pictures)
    cache = ImageCache(3 * 40 * 48 * 3)
    first = [cache.read(sample) for sample in dataset.samples[:5]]
    again = [cache.read(sample) for sample in dataset.samples[:5]]
    assert [a is b for a, b in zip(first, again, strict=True)] == [True] * 3 + [False] * 2
    assert all((a == b).all() for a, b in zip(first, again, strict=True))

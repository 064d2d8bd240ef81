"""Memory: flat over many predictions, and bounded over a folder of very many images, with ``predict`` and ``batch``."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import cv2

import ghostzoo
from benchmarks.figures import out_option, save
from benchmarks.turns import print_machine
from ghostzoo.bench.sample_image import jpeg
from ghostzoo.cli.bars import progress
from ghostzoo.cli.console import print_table
from ghostzoo.images.decode import read_image

_WARM = 200
_LINKS = 30_000
"""File systems limit the links of one file."""


@click.command()
@click.option("--predictions", default=10_000, show_default=True)
@click.option("--images", default=100_000, show_default=True, help="Images of the folder: links to one file.")
@click.option("--batch-images", default=200_000, show_default=True, help="Images of the folder of 'ghostzoo batch'.")
@click.option("--workers", type=int, help="Threads that classify the folder.  [default: the CPUs that may be used]")
@out_option
def main(predictions: int, images: int, batch_images: int, workers: int | None, out: Path | None) -> None:
    print_machine()
    classifier = ghostzoo.load("GhostNet_x0_5_cifar10", engine="onnxruntime")
    data = jpeg()
    for _ in range(_WARM):
        classifier(data)
    title = f"{predictions} predictions"
    figures = {"predictions": watch(title, predictions, (classifier(data) for _ in range(predictions)))}
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        make_photos(photos, data, images)
        title = f"folder of {images} images"
        figures["folder"] = watch(title, images, classifier.predict(photos, workers=workers))
    classifier.close()
    with tempfile.TemporaryDirectory() as folder:
        figures["batch"] = watch_batch(Path(folder), batch_images, workers)
    rows = [
        [f"{name}, {row['count']:g}", *(f"{row[key]:.1f}" for key in ("before_mb", "early_mb", "later_mb"))]
        for name, row in figures.items()
    ]
    save(out, figures)
    print_table(["resident memory", "before MB", "after a tenth MB", "at most later MB"], rows)


def make_photos(photos: Path, data: bytes, count: int) -> None:
    for index in range(count):
        path = photos / f"{index // 1000:03}" / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index % _LINKS == 0:
            source = path
            source.write_bytes(data)
        else:
            path.hardlink_to(source)


def watch(title: str, count: int, results: Iterable[object]) -> dict[str, float]:
    """Take all results; return the memory before, after a tenth and at most later."""
    before, early, late, taken = resident(), 0.0, 0.0, 0
    with progress(count, title) as advance:
        for _ in results:
            taken += 1
            advance()
            if taken == count // 10:
                early = resident()
            elif taken > count // 10 and taken % 100 == 0:
                late = max(late, resident())
    assert taken == count
    return {"count": count, "before_mb": before, "early_mb": early, "later_mb": late}


def watch_batch(folder: Path, count: int, workers: int | None) -> dict[str, float]:
    """Classify a folder of small images with ``ghostzoo.batch``; return the memory as ``watch`` does."""
    photos = folder / "photos"
    make_photos(photos, bytes(cv2.imencode(".jpg", read_image(jpeg())[::8, ::8, ::-1])[1]), count)
    memory: list[float] = [resident()]

    def sample(_: bool) -> None:
        taken[0] += 1
        if taken[0] % (count // 20) == 0:
            memory.append(resident())

    taken = [0]
    done = ghostzoo.batch(photos, folder / "out.parquet", engine="onnxruntime", workers=workers, on_picture=sample)
    assert (done.pictures, done.unreadable) == (count, 0)
    return {
        "count": count,
        "before_mb": memory[0],
        "early_mb": memory[2],
        "later_mb": max(memory[3:]),
        "last_mb": memory[-1],
    }


def resident() -> float:
    """MB, on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()

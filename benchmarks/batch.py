"""10,000 pictures: ``Classifier.predict`` of a folder, ``ghostzoo.batch``, Ray on one and two nodes, and Spark.

    make test-extra    # once: makes .venv-clusters; Spark needs Java
    .venv-clusters/bin/python benchmarks/batch.py

``predict`` and ``batch`` take turns, folder by folder, so that what else the machine does slows both alike; each time
includes loading the model, and for ``batch`` writing the parts. The clusters follow, each over all pictures, between
two halves of another ``predict``. Their nodes share this
machine's CPUs: they tell what a cluster costs, not what more machines add.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import cv2
import numpy as np

import ghostzoo
from benchmarks.figures import out_option, save
from benchmarks.turns import print_machine, print_peak
from ghostzoo.cli.console import print_table
from ghostzoo.images.decode import read_image
from tests.fixtures.clusters import ray_cluster, spark_cluster

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = (*sorted((ROOT / "ghostzoo/serve/page/samples").glob("*.jpg")), ROOT / "examples/chelsea.png")
SIZES = ((160, 120), (320, 240), (375, 500), (500, 375), (640, 480))
_QUALITY = 90
_SPARK = {
    "spark.sql.files.openCostInBytes": "65536",  # as for small files: by default a task reads 32 of them
    "spark.ui.showConsoleProgress": "false",
}


def make_pictures(folder: Path, count: int, parts: int) -> list[Path]:
    """Write JPEG files, each a part of a photograph of its own, in so many folders; return those."""
    photographs = [read_image(path) for path in PHOTOGRAPHS]
    random = np.random.default_rng(0)
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        width, height = SIZES[index // len(photographs) % len(SIZES)]
        share = random.uniform(0.6, 1.0)
        rows, columns = (int(side * share) for side in photograph.shape[:2])
        top, left = (
            random.integers(0, whole - side + 1) for whole, side in zip(photograph.shape, (rows, columns), strict=False)
        )
        part = cv2.resize(photograph[top : top + rows, left : left + columns], (width, height))
        path = folder / f"{index * parts // count:02}" / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = cv2.imencode(".jpg", part[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
        path.write_bytes(data.tobytes())
    return sorted(path for path in folder.iterdir() if path.is_dir())


def predict(model: str | None, source: Path, out: Path) -> int:
    with ghostzoo.load(model) as classifier:
        return sum(1 for _ in classifier.predict(source))


def batch(model: str | None, source: Path, out: Path, **options: Any) -> int:
    return ghostzoo.batch(source, out, model=model, **options).pictures


def spark(session: Any, model: str | None, source: Path, out: Path) -> int:
    from ghostzoo.spark import classify_udf

    reader = session.read.format("binaryFile").option("pathGlobFilter", "*.jpg").option("recursiveFileLookup", "true")
    pictures = reader.load(str(source))
    pictures.select("path", classify_udf(model)("content").alias("found")).write.parquet(str(out))
    return int(session.read.parquet(str(out)).count())


@dataclass(frozen=True)
class Time:
    images: int
    seconds: float
    cpu_seconds: float
    """Of this process, not of a cluster's."""


def timed(work: Callable[[str | None, Path, Path], int], model: str | None, source: Path) -> Time:
    with tempfile.TemporaryDirectory() as place:
        start, cpu = time.perf_counter(), time.process_time()
        done = work(model, source, Path(place, "out.parquet"))
        return Time(done, time.perf_counter() - start, time.process_time() - cpu)


@dataclass
class Seen:
    """What a way took, and ``predict`` beside it."""

    own: list[Time] = field(default_factory=list)
    beside: list[Time] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        own, base = (sum(each.images for each in times) / sum(each.seconds for each in times) for times in self._both)
        found = {"images": sum(each.images for each in self.own), "per_second": own, "predict_per_second": base}
        if len(self.own) < len(self.beside):
            return {**found, "ratio": own / base}
        cpu = [sum(each.cpu_seconds for each in times) for times in self._both]
        turns = [base.seconds / own.seconds for own, base in zip(*self._both, strict=True)]
        return {**found, "ratio": median(turns), "cpu_ratio": cpu[1] / cpu[0]}

    @property
    def _both(self) -> tuple[list[Time], list[Time]]:
        return self.own, self.beside


@click.command()
@click.option("--images", default=10_000, show_default=True)
@click.option("--parts", default=10, show_default=True, help="Turns of 'predict' and 'batch'.")
@click.option("--model", help="A name or a bundle folder.  [default: the model that comes with the package]")
@click.option("--only-here", is_flag=True, help="Leave Ray and Spark out.")
@out_option
def main(images: int, parts: int, model: str | None, only_here: bool, out: Path | None) -> None:
    """Print pictures a second of each way, and the ratio to 'predict' at about the same time."""
    print_machine()
    peak = print_peak()
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place, "pictures")
        folders = make_pictures(whole, images, parts)
        seen = {"batch": take_turns(model, folders)}
        print(f"batch: {seen['batch'].figures()}", flush=True)
        for name, (cluster, way) in CLUSTERS.items() if not only_here else ():
            half = len(folders) // 2
            seen[name] = Seen(beside=[timed(predict, model, each) for each in folders[:half]])
            with cluster() as running:
                work = way(running)
                timed(work, model, folders[0])  # what a cluster does once
                seen[name].own.append(timed(work, model, whole))
            seen[name].beside += [timed(predict, model, each) for each in folders[half:]]
            print(f"{name}: {seen[name].figures()}", flush=True)
    figures = {name: each.figures() for name, each in seen.items()}
    save(out, figures, images=images, model=model, peak_gflops=peak)
    rows = [
        [
            name,
            *(f"{row[key]:,.0f}" for key in ("images", "per_second", "predict_per_second")),
            f"{row['ratio']:.3f}",
            f"{row.get('cpu_ratio', nan):.3f}",
        ]
        for name, row in figures.items()
    ]
    print_table(["way", "pictures", "a second", "predict(folder) beside", "ratio", "by CPU time"], rows)


def take_turns(model: str | None, folders: list[Path]) -> Seen:
    """``batch`` and ``predict``, folder by folder, each of them first in every other turn."""
    seen = Seen()
    for number, folder in enumerate(folders):
        for work, times in ((predict, seen.beside), (batch, seen.own))[:: -1 if number % 2 else 1]:
            times.append(timed(work, model, folder))
    return seen


CLUSTERS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "Ray, one node": (partial(ray_cluster, [2]), lambda cluster: partial(batch, ray=cluster.address)),
    "Ray, two nodes": (partial(ray_cluster, [1, 1]), lambda cluster: partial(batch, ray=cluster.address)),
    "Spark, two executors": (partial(spark_cluster, **_SPARK), lambda session: partial(spark, session)),
}


if __name__ == "__main__":
    main()

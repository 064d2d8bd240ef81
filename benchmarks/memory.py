"""Memory: flat over many predictions, and bounded over a folder of very many images."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

import ghostzoo
from benchmarks.turns import print_machine
from ghostzoo.bench.pictures import jpeg
from ghostzoo.terminal import print_table, progress

_WARM = 200


@click.command()
@click.option("--predictions", default=10_000, show_default=True)
@click.option("--images", default=100_000, show_default=True, help="Images of the folder: links to one file.")
@click.option("--workers", type=int, help="Threads that classify the folder.  [default: the CPUs that may be used]")
def main(predictions: int, images: int, workers: int | None) -> None:
    print_machine()
    classifier = ghostzoo.load("GhostNet_x0_5_cifar10", engine="onnxruntime")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = jpeg()
        for _ in range(_WARM):
            classifier(data)
        before = resident()
        with progress(predictions, "predictions") as advance:
            for _ in range(predictions):
                classifier(data)
                advance()
        rows.append([f"{predictions} predictions", f"{before:.1f}", f"{resident():.1f}"])
        source = Path(folder, "source")
        source.write_bytes(data)
        photos = Path(folder, "photos")
        for index in range(images):
            place = photos / f"{index // 1000:03}"
            place.mkdir(parents=True, exist_ok=True)
            os.link(source, place / f"{index:06}.jpg") if index % 30_000 else (place / f"{index:06}.jpg").write_bytes(
                data
            )
            if index and index % 30_000 == 0:  # file systems limit the links of one file
                source = place / f"{index:06}.jpg"
        peak = before = resident()
        count = 0
        with progress(images, "folder") as advance:
            for _ in classifier.predict(photos, workers=workers):
                count += 1
                advance()
                if count % 500 == 0:
                    peak = max(peak, resident())
        assert count == images
        rows.append([f"folder of {images} images", f"{before:.1f}", f"{peak:.1f}"])
    print_table(["resident memory", "before MB", "after or at most MB"], rows)


def resident() -> float:
    """MB, on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()

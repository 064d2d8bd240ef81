"""From a JPEG photo's bytes to the network's input: decoded as the original does it, by ghostzoo, and in ``draft``.

CPU time of one thread, the ways in turn; medians, and ratios to the original's way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import cv2
import numpy as np

from benchmarks.turns import print_machine
from ghostzoo.cli.console import print_table
from ghostzoo.images.decode import ReadOptions, read_image
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess

SIZES = ((640, 480), (1600, 1200), (3000, 2000), (4000, 3000), (6000, 4000))


def photo(width: int, height: int) -> bytes:
    """Colours and grain, which make a file as large as a camera's."""
    chance = np.random.default_rng(0)
    colours = chance.integers(0, 256, (height // 50, width // 50, 3), np.uint8)
    smooth = cv2.resize(colours, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    grainy = np.clip(smooth + chance.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", grainy)[1].tobytes()


@click.command()
@click.argument("images", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rounds", default=20, show_default=True)
def main(images: tuple[Path, ...], rounds: int) -> None:
    """Measure IMAGES, or made-up ones."""
    print_machine()
    cv2.setNumThreads(1)
    config = Preprocessing()
    draft = ReadOptions(draft_side=2 * config.resize_short)
    ways: dict[str, Callable[[bytes], Any]] = {
        "original": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB),
        "ghostzoo": read_image,
        "draft": lambda data: read_image(data, options=draft),
    }
    rows = []
    files = {path.name: path.read_bytes() for path in images} or {f"{w} x {h}": photo(w, h) for w, h in SIZES}
    for name, data in files.items():
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, read in ways.items():
                start = time.thread_time()
                preprocess(read(data), config)
                times[way].append(time.thread_time() - start)
        base, *others = (median(each) for each in times.values())
        rows.append([name, f"{1000 * base:.1f}", *(f"{other / base:.2f}" for other in others)])
    print_table(["photo", "original, ms", "ghostzoo", "draft"], rows, caption=f"median of {rounds} rounds")


if __name__ == "__main__":
    main()

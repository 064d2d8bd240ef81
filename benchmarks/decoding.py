"""What it costs to decode in processes of their own: ``ghostzoo serve`` with and without, in turn.

    .venv/bin/python benchmarks/decoding.py --model GhostNet_x1_0 photos/*.jpg

Both servers run all the time, and each is loaded in turn, round after round. The processor time of an image, over the
server and all its processes, hardly depends on what else the machine does; the ratios are medians over the rounds.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.serve import ghostzoo_server, load, write_images
from ghostzoo.cli.console import print_table
from ghostzoo.fetch.resolver import fetch

WAYS = {"threads": "--no-decode-processes", "processes": "--decode-processes"}
KEYS = {"cpu_ms": "CPU ms", "images_per_second": "images/s", "p50_ms": "p50 ms", "p99_ms": "p99 ms"}


@click.command()
@click.argument("images", nargs=-1, type=click.Path(exists=True))
@click.option("--model", help="A name or a bundle folder.  [default: the model that comes with the package]")
@click.option("--clients", "counts", multiple=True, type=int, default=[1, 8, 64], show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Load on each server in each round.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--serve-option", "serve_options", multiple=True, help="Passed on to ghostzoo serve; may be repeated.")
def main(
    images: tuple[str, ...],
    model: str | None,
    counts: tuple[int, ...],
    seconds: float,
    rounds: int,
    serve_options: tuple[str, ...],
) -> None:
    """Serve IMAGES, or made-up ones."""
    bundle = fetch(model)
    seen: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    with ExitStack() as stack:
        paths = list(images) or write_images(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        targets = {
            way: stack.enter_context(ghostzoo_server(bundle, (option, *serve_options))) for way, option in WAYS.items()
        }
        for target in targets.values():
            load(target, paths, 2, 1.0)
        for index in range(rounds):
            for clients in counts:
                for way in list(targets)[:: 1 if index % 2 else -1]:
                    seen[clients, way].append(load(targets[way], paths, clients, seconds))
    rows = []
    for clients in counts:
        for way in WAYS:
            results = seen[clients, way]
            rows.append([str(clients), way, *(f"{median(each[key] for each in results):.2f}" for key in KEYS)])
        pairs = list(zip(seen[clients, "processes"], seen[clients, "threads"], strict=True))
        ratios = [median(ours[key] / base[key] for ours, base in pairs) for key in KEYS]
        rows.append([str(clients), "ratio", *(f"{ratio:.3f}" for ratio in ratios)])
    caption = f"{bundle.name}, {platform.machine()}, {os.cpu_count()} CPUs, median of {rounds} rounds"
    print_table(["clients", "decoding in", *KEYS.values()], rows, caption=caption)


if __name__ == "__main__":
    main()

"""``ghostzoo index``, ``search`` and ``dedup``: their cost, and which copies of photographs are found."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import cv2
import numpy as np

import ghostzoo
from benchmarks.figures import out_option, save
from benchmarks.layers import Peak
from benchmarks.own_classes import take
from benchmarks.turns import print_machine
from ghostzoo.classifier import Classifier
from ghostzoo.cli.console import print_table
from ghostzoo.similarity.duplicates import THRESHOLD
from ghostzoo.similarity.index import Index

_QUERIES = 20


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="A .tar with a folder for each class.")
@click.option("--pictures", "count", type=int, default=1000, show_default=True, help="Of each class.")
@click.option("--photos", type=click.Path(path_type=Path), help="A folder of different photographs to make copies of.")
@click.option("--model", help="Whose embeddings are taken.  [default: the bundled model]")
@out_option
def main(data: Path, count: int, photos: Path | None, model: str | None, out: Path | None) -> None:
    peak = Peak.measure()
    print_machine()
    figures: dict[str, Any] = {}
    costs: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place, ghostzoo.load(model, engine="onnxruntime") as classifier:
        folder, path = Path(place, "pictures"), Path(place, "pictures.index")
        take(data, folder, count)
        for name, call in (
            ("index", lambda: ghostzoo.build_index(classifier, folder, path)),
            ("index again", lambda: ghostzoo.build_index(classifier, folder, path)),
            ("dedup with the index", lambda: ghostzoo.find_duplicates(classifier, folder, index=path)),
            ("search by one embedding", lambda: _search(Index.open(path))),
        ):
            costs[name] = _cost(call)
        figures |= costs | {"pictures": len(Index.open(path)), "index_bytes": path.stat().st_size}
        rows = [[name, f"{cost['cpu']:.3f}", f"{cost['memory']:.0f}"] for name, cost in costs.items()]
        caption = f"{figures['pictures']} pictures, {figures['index_bytes'] / 1e6:.1f} MB"
        print_table(["step", "CPU s", "peak MB"], rows, caption=caption)
        if photos is not None:
            figures["copies"] = _copies(classifier, photos, Path(place))
            print_table(["copies", "found"], [[name, f"{share:.2f}"] for name, share in figures["copies"].items()])
    print(f"One core at most: {peak.gflops:.0f} GFLOP/s")
    save(out, figures, peak_gflops=peak.gflops)


def _cost(call: Callable[[], object]) -> dict[str, float]:
    started = time.process_time()
    times = call() or 1
    cpu = time.process_time() - started
    return {
        "cpu": cpu / times if isinstance(times, int) else cpu,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def _search(index: Index) -> int:
    for row in range(_QUERIES):
        index.search(index.embeddings[row], 5)
    return _QUERIES


def _copies(classifier: Classifier, photos: Path, place: Path) -> dict[str, float]:
    """The share of photographs whose copy of each kind is in a group with them alone."""
    folder = place / "photos"
    folder.mkdir()
    names = []
    for number, path in enumerate(sorted(path for path in photos.rglob("*") if path.is_file())):
        picture = classifier.read_image(path)[:, :, ::-1]
        names.append(f"{number}")
        for kind, change in _KINDS.items():
            (folder / kind).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / kind / f"{number}.png"), change(picture))
    shares = {}
    for kind in list(_KINDS)[1:]:
        pair = place / f"pair-{kind}"
        pair.mkdir()
        for each in ("as it is", kind):
            for name in names:
                (pair / f"{name} {each}.png").hardlink_to(folder / each / f"{name}.png")
        groups = ghostzoo.find_duplicates(classifier, pair, index=place / f"{kind}.index", threshold=THRESHOLD).groups
        owners = [{name.partition(" ")[0] for name in group} for group in groups]
        shares[kind] = sum(len(owner) == 1 for owner in owners) / len(names)
        if any(len(owner) > 1 for owner in owners):
            print(f"{kind}: different photographs in a group: {[owner for owner in owners if len(owner) > 1]}")
    return shares


def _jpeg(quality: int) -> Callable[[Any], Any]:
    return lambda picture: cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def _scale(factor: float) -> Callable[[Any], Any]:
    return lambda picture: cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def _crop(share: float, top: float = 0.5) -> Callable[[Any], Any]:
    def cut(picture: Any) -> Any:
        high, wide = (round(side * share**0.5) for side in picture.shape[:2])
        down, right = (round((side - kept) * top) for side, kept in zip(picture.shape, (high, wide), strict=False))
        return picture[down : down + high, right : right + wide]

    return cut


_KINDS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda picture: picture,
    "JPEG of quality 75": _jpeg(75),
    "JPEG of quality 30": _jpeg(30),
    "half the size": _scale(0.5),
    "a quarter of the size": _scale(0.25),
    "brighter by a fifth": lambda picture: np.clip(picture * 1.2 + 10, 0, 255).astype(np.uint8),
    "grey": lambda picture: cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR),
    "the middle 95 %": _crop(0.95),
    "the middle 90 %": _crop(0.9),
    "the middle 90 %, half the size, JPEG of quality 75": lambda picture: _jpeg(75)(_scale(0.5)(_crop(0.9)(picture))),
    "the middle 80 %": _crop(0.8),
    "a corner, 90 %": _crop(0.9, 0),
    "the middle 50 %": _crop(0.5),
    "mirrored": lambda picture: np.ascontiguousarray(picture[:, ::-1]),
}


if __name__ == "__main__":
    main()

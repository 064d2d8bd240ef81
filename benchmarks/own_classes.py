"""``ghostzoo fit``: accuracy in cross-validation and on other pictures, with few and many of them, and its cost."""

from __future__ import annotations

import resource
import shutil
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

import ghostzoo
from benchmarks.figures import out_option, save
from benchmarks.layers import Peak
from benchmarks.turns import print_machine
from ghostzoo.cli.console import print_table
from ghostzoo.evaluation.evaluate import evaluate, open_labelled


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="A .tar with a folder for each class.")
@click.option("--test", type=click.Path(path_type=Path), help="Other pictures of the same classes, as a .tar.")
@click.option("--model", help="Whose features are taken.  [default: the bundled model]")
@click.option("--pictures", "counts", multiple=True, type=int, default=(2, 5, 20, 100, 1000), help="Of each class.")
@out_option
def main(data: Path, test: Path | None, model: str | None, counts: tuple[int, ...], out: Path | None) -> None:
    peak = Peak.measure()
    print_machine()
    rows, figures = [], {}
    for count in counts:
        with tempfile.TemporaryDirectory() as place:
            folder, bundle = Path(place, "pictures"), Path(place, "mine")
            take(data, folder, count)
            started, worked = time.perf_counter(), time.process_time()
            done = ghostzoo.fit(folder, bundle, model=model, engine="onnxruntime")
            seconds, cpu = time.perf_counter() - started, time.process_time() - worked
            started = time.process_time()
            again = ghostzoo.fit(folder, bundle, model=model, engine="onnxruntime", overwrite=True)
            cached = time.process_time() - started
            assert again.bundle.model_hash() == done.bundle.model_hash()
            held_out = accuracy(bundle, test) if test is not None else None
        facts = {
            "pictures": done.accuracy.total,
            "cross_validated": done.accuracy.to_dict(),
            "held_out": held_out,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "cpu_seconds_again": cached,
            "kept_bytes": done.kept_bytes,
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        }
        figures[str(count)] = facts
        low, high = done.accuracy.interval
        rows.append(
            [
                str(count),
                f"{done.accuracy.value:.3f} ({low:.3f} to {high:.3f})",
                "-" if held_out is None else f"{held_out:.3f}",
                f"{seconds:.1f}",
                f"{cpu:.1f}",
                f"{cached:.1f}",
                f"{done.kept_bytes / 1e6:.1f}",
                f"{facts['memory_mb']:.0f}",
            ]
        )
    heads = ["pictures a class", "cross-validated", "other pictures", "s", "CPU s", "CPU s again", "kept MB", "peak MB"]
    print_table(heads, rows, caption=f"One core at most: {peak.gflops:.0f} GFLOP/s")
    save(out, figures, peak_gflops=peak.gflops)


def take(data: Path, folder: Path, count: int) -> None:
    """Unpack the first ``count`` pictures of each class."""
    taken: defaultdict[str, int] = defaultdict(int)
    with tarfile.open(data) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            source = archive.extractfile(member) if member.isfile() and taken[path.parent.name] < count else None
            if source is None:
                continue
            taken[path.parent.name] += 1
            target = folder / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(source, file)


def accuracy(bundle: Path, test: Path) -> float:
    with ghostzoo.load(bundle, engine="onnxruntime") as classifier:
        return evaluate(classifier, open_labelled(test, classifier.bundle.labels)).top1.value


if __name__ == "__main__":
    main()

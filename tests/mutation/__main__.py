"""Put faults into the package, one at a time, and run the tests that reach them.

    python -m tests.mutation --count 300 --seed 1 --out mutation.json
    python -m tests.mutation --again mutation.json

First the tests run once, each recorded with the lines that it reaches. Then a sample of all faults is tried: for each,
in a copy of the checkout, the tests that reach its line, the quickest of its own folder first, until one fails.
``--again`` tries those once more that no test noticed. With ``--scratch``, both go on from where they were ended, and
``--record tests/images/test_gif.py`` makes a test file's new tests known without recording the others again.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

from .mutants import Mutant, mutants_of
from .recordings import Reached, record
from .running import preload, try_one

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.json")
"""Faults that change nothing that a user could notice, each with the reason."""
RECORDED = ("tests/*/", "tests/test_*.py")
NOT_RECORDED = ("docs", "examples", "exporters", "fixtures", "hub", "mutation", "native", "timm", "training", "web")
"""Tests of other folders than the package's, or that need what the development environment does not have."""
NEEDS_MORE = {
    "an NVIDIA GPU": ("ghostzoo/engines/cuda.py", "ghostzoo/engines/tensorrt"),
    "PaddlePaddle": ("ghostzoo/engines/paddle.py", "ghostzoo/weights/programs.py"),
    "Ray": ("ghostzoo/ray.py",),
    "Spark": ("ghostzoo/spark.py",),
}
"""Modules whose tests are skipped in the development environment: what they need, and their names' beginnings."""


def copy_checkout(to: Path) -> Path:
    """Copy what git knows, and what it does not ignore; the photographs beside the checkout are linked to."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    copy = to / "checkout"
    shutil.rmtree(copy, ignore_errors=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    if (ROOT.parent / "shared").exists() and not (to / "shared").exists():
        (to / "shared").symlink_to(ROOT.parent / "shared")
    return copy


def key(mutant: Mutant, lines: Sequence[str]) -> tuple[str, str, str, str]:
    """What a fault is known by where lines have moved: the module, its line, and what is changed to what."""
    return mutant.module, lines[mutant.line - 1].strip(), mutant.was, mutant.text


def key_of(row: dict[str, Any]) -> tuple[str, str, str, str]:
    return row["module"], row["source"], row["was"], row["text"]


def sample(copy: Path, count: int, seed: int, left_out: Iterable[str]) -> list[Mutant]:
    """Choose ``count`` of all faults: for the same seed the same ones, but for those in lines that have changed."""
    modules = sorted(path.relative_to(copy).as_posix() for path in copy.glob("ghostzoo/**/*.py"))
    prefixes = (*left_out, *(prefix for several in NEEDS_MORE.values() for prefix in several))
    equivalent = {key_of(row) for row in json.loads(EQUIVALENT.read_text(encoding="utf-8"))}
    faults: list[tuple[bytes, Mutant]] = []
    for name in modules:
        if name.startswith(prefixes):
            continue
        source = (copy / name).read_bytes()
        lines = source.decode().splitlines()
        seen: Counter[str] = Counter()
        for mutant in mutants_of(name, source):
            known = key(mutant, lines)
            text = " ".join((str(seed), *known))
            seen[text] += 1
            if known not in equivalent:
                faults.append((hashlib.sha256(f"{text} {seen[text]}".encode()).digest(), mutant))
    return [mutant for _, mutant in heapq.nsmallest(count, faults, key=itemgetter(0))]


def find_again(row: dict[str, Any], copy: Path) -> list[Mutant]:
    """Find a fault of an earlier run in today's module: the nearest of several, none where its line is gone."""
    path = copy / row["module"]
    source = path.read_bytes() if path.exists() else b""
    lines = source.decode().splitlines()
    fits = [mutant for mutant in mutants_of(row["module"], source) if key(mutant, lines) == key_of(row)]
    return sorted(fits, key=lambda mutant: abs(mutant.line - row["line"]))[:1]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=60, help="seconds of tests for a fault")
    parser.add_argument("--out", type=Path, default=Path("mutation.json"))
    parser.add_argument("--again", type=Path, help="a result whose survivors are tried once more")
    parser.add_argument("--record", action="append", default=[], help="tests that were added or changed")
    parser.add_argument("--leave-out", action="append", default=[], help="a folder or module, such as ghostzoo/serve")
    parser.add_argument("--scratch", type=Path, help="where copy and recordings are kept, to go on from")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # it, too, takes the fault out again
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="ghostzoo-mutation-"))
    scratch.mkdir(parents=True, exist_ok=True)
    copy = copy_checkout(scratch)
    recordings = scratch / "recordings"
    every = sorted(path.relative_to(copy).as_posix() for pattern in RECORDED for path in copy.glob(pattern))
    left_out = {*NOT_RECORDED, *(Path(name).name for name in options.leave_out)}
    for name in options.record:
        for path in recordings.glob(f"{name.replace('/', '-')}.*"):
            path.unlink()
    record(copy, recordings, [name for name in every if Path(name).name not in left_out] + options.record)
    tests = Reached(recordings, copy)
    if options.again:
        rows = json.loads(options.again.read_text(encoding="utf-8"))["mutants"]
        mutants = [found for row in rows if row["outcome"] == "survived" for found in find_again(row, copy)]
    else:
        mutants = sample(copy, options.count, options.seed, options.leave_out)
    print(f"seed {options.seed}, {len(mutants)} faults, {len(tests.seconds)} tests", flush=True)
    preload()
    results: list[dict[str, Any]] = []
    if options.scratch and options.out.exists():  # go on from there
        results = json.loads(options.out.read_text(encoding="utf-8"))["mutants"]
    done = Counter(key_of(row) for row in results)
    for number, mutant in enumerate(mutants, 1):
        lines = (copy / mutant.module).read_text(encoding="utf-8").splitlines()
        if done[key(mutant, lines)]:
            done[key(mutant, lines)] -= 1
            continue
        names = tests.choose(mutant, options.patience / 2)
        outcome, failed, took = "survived", list[str](), 0.0
        if names:
            outcome, failed, took = try_one(mutant, names, copy, options.patience)
        of_try = {"outcome": outcome, "tests": len(names), "failed": failed, "seconds": round(took, 1)}
        results.append(asdict(mutant) | {"source": lines[mutant.line - 1].strip()} | of_try)
        print(f"{number}/{len(mutants)} {outcome} ({len(names)} tests, {took:.0f} s) {mutant}", flush=True)
        counts = Counter(row["outcome"] for row in results)
        report = {"seed": options.seed, "counts": counts, "mutants": results}
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    counts = Counter(row["outcome"] for row in results)
    noticed = counts["killed"] + counts["timeout"]
    print(f"{noticed} of {len(results)} noticed ({100 * noticed / max(1, len(results)):.0f} %): {dict(counts)}")


if __name__ == "__main__":
    main()

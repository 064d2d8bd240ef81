"""Libraries of approximate search, on made-up embeddings in clusters; they are faiss-cpu, hnswlib and usearch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import numpy as np

from benchmarks.figures import out_option, save
from benchmarks.layers import Peak
from benchmarks.turns import print_machine
from ghostzoo.cli.console import print_table

_SIZE, _QUERIES, _K = 1280, 500, 10
_CLUSTERS, _RANK = 1000, 64

Search = Callable[[Any, int], Any]


def embeddings(count: int) -> tuple[Any, Any]:
    """(count, 1280) and (500, 1280) float32 of length 1: 1,000 clusters of 64 dimensions, and a ReLU."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(_CLUSTERS, _RANK)).astype(np.float32)
    mix = rng.normal(size=(_RANK, _SIZE)).astype(np.float32) / 8

    def make(rows: int) -> Any:
        hidden = centres[rng.integers(0, _CLUSTERS, rows)] + 0.7 * rng.normal(size=(rows, _RANK)).astype(np.float32)
        made = np.maximum(hidden @ mix, 0)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    return make(count), make(_QUERIES)


def exact(vectors: Any) -> tuple[Search, tuple[int, ...]]:
    return lambda query, _: np.argpartition(vectors @ query, -_K)[-_K:], (0,)


def faiss_lists(vectors: Any) -> tuple[Search, tuple[int, ...]]:
    import faiss

    faiss.omp_set_num_threads(1)
    count = int(4 * len(vectors) ** 0.5)
    kind = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(_SIZE), _SIZE, count, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[: 50 * count])
    index.add(vectors)

    def search(query: Any, probed: int) -> Any:
        index.nprobe = probed
        return index.search(query[np.newaxis], _K)[1][0]

    return search, (4, 16, 32)


def faiss_graph(vectors: Any) -> tuple[Search, tuple[int, ...]]:
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(_SIZE, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    index.add(vectors)

    def search(query: Any, width: int) -> Any:
        index.hnsw.efSearch = width
        return index.search(query[np.newaxis], _K)[1][0]

    return search, (32, 64, 128)


def hnswlib_graph(vectors: Any) -> tuple[Search, tuple[int, ...]]:
    import hnswlib

    index = hnswlib.Index("ip", _SIZE)
    index.init_index(len(vectors), ef_construction=200, M=16)
    index.set_num_threads(1)
    index.add_items(vectors)

    def search(query: Any, width: int) -> Any:
        index.set_ef(width)
        return index.knn_query(query[np.newaxis], _K)[0][0]

    return search, (32, 64, 128)


def usearch_graph(vectors: Any) -> tuple[Search, tuple[int, ...]]:
    from usearch.index import Index

    index = Index(ndim=_SIZE, metric="ip", dtype="f16", connectivity=16, expansion_add=128)
    index.add(np.arange(len(vectors)), vectors, threads=1)

    def search(query: Any, width: int) -> Any:
        index.expansion_search = width
        return index.search(query, _K, threads=1).keys

    return search, (32, 64, 128)


_LIBRARIES = {each.__name__: each for each in (exact, faiss_lists, faiss_graph, hnswlib_graph, usearch_graph)}


def measure(library: str, count: int) -> dict[str, Any]:
    vectors, queries = embeddings(count)
    right = np.argsort(-(queries @ vectors.T), axis=1)[:, :_K]
    before, started = _resident_mb(), time.process_time()
    search, widths = _LIBRARIES[library](vectors)
    facts: dict[str, Any] = {"build_cpu_s": time.process_time() - started, "memory_mb": _resident_mb() - before}
    for width in widths:
        times, shared = [], 0
        for query, rows in zip(queries, right, strict=True):
            started = time.process_time()
            found = search(query, width)
            times.append(time.process_time() - started)
            shared += len({*map(int, found)} & {*rows.tolist()})
        facts[str(width)] = {"recall": shared / _K / len(queries), "cpu_ms": 1000 * float(np.median(times))}
    return facts


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


@click.command()
@click.option("--count", default=100_000, show_default=True, help="Embeddings.")
@click.option("--library", "only", type=click.Choice([*_LIBRARIES]), help="Measure this one, in this process.")
@out_option
def main(count: int, only: str | None, out: Path | None) -> None:
    if only is not None:
        click.echo(json.dumps(measure(only, count)))
        return
    peak = Peak.measure()
    print_machine()
    figures = {}
    for library in _LIBRARIES:
        words = [sys.executable, __file__, "--count", str(count), "--library", library]
        figures[library] = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
    save(out, figures, peak_gflops=peak.gflops)
    rows = []
    for library, facts in figures.items():
        cost = f"{facts.pop('build_cpu_s'):.1f}", f"{facts.pop('memory_mb'):.0f}"
        rows += [
            [library, *cost, width, f"{each['recall']:.4f}", f"{each['cpu_ms']:.2f}"] for width, each in facts.items()
        ]
    heads = ["library", "CPU s to build", "MB", "width", "recall", "CPU ms"]
    print_table(heads, rows, caption=f"One core at most: {peak.gflops:.0f} GFLOP/s")


if __name__ == "__main__":
    main()

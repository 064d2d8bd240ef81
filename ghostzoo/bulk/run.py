"""``ghostzoo.batch``: pictures of any storage -> parts of results, which a later run can go on with."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from os import PathLike, fspath
from typing import Any

from ..errors import InputError, OptionError
from ..images.options import ImageLimits
from ..predictions import Choice
from .columns import BATCH_SIZE, Encoded, Row, Task
from .output import Names, Results
from .sources import Item, find_items, read_ahead

ROWS_OF_PART = 10_000
"""In a part; the next part is begun then."""
NAMES_AT_ONCE = 500_000
"""That a cluster is given: some 100 MB of names and results, and enough work that its start counts for little."""
READERS = 16
"""Pictures that are fetched at the same time from a storage that is not a local disk."""


@dataclass(frozen=True)
class BatchReport:
    """What a run has done."""

    out: str
    pictures: int
    """Rows in all parts, those of earlier runs included."""
    unreadable: int
    """Of these, those with an error."""
    done_before: int
    """Of these, those of earlier runs."""
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Of this run."""
        return (self.pictures - self.done_before) / self.seconds if self.seconds else 0.0


def batch(
    source: Any,
    out: str | PathLike[str],
    *,
    model: str | PathLike[str] | None = None,
    top_k: int | None = None,
    min_score: float | None = None,
    calibrated: bool = True,
    coverage: float | None = None,
    unknown_below: float | None = None,
    group: str | Sequence[str] | None = None,
    embeddings: bool = False,
    column: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    rows_per_part: int = ROWS_OF_PART,
    readers: int = READERS,
    workers: int | None = None,
    batch_size: int = BATCH_SIZE,
    ray: str | None = None,
    on_picture: Callable[[bool], object] | None = None,
    **load: Any,
) -> BatchReport:
    """Classify all pictures of ``source``, and write a row for each into ``out``.

    Args:
        source: a path, URL or glob of pictures, folders, WebDataset ``.tar`` files, ``.parquet`` or ``.arrow`` tables,
            or list files (``.txt``); an Arrow table or dataset; or a list of these. URLs are whatever fsspec knows:
            ``s3://``, ``gs://``, ``hf://``, ``https://``.
        out: a folder to make, ending in ``.parquet`` or ``.jsonl``; also on another storage.
        model: as for ``ghostzoo.load``.
        top_k: classes of a picture at most, as for ``Classifier.predict``.
        min_score: lowest score of a class.
        calibrated: use the model's temperature, if it has one.
        coverage: as many classes as hold the right one with this probability, as for ``Classifier.predict``.
        unknown_below: no class for pictures that are less familiar than this share of the calibration's.
        group: groups of classes whose scores are added up, as for ``Classifier.predict``.
        embeddings: write each picture's embedding too, 1280 float32 numbers.
        column: the table's column with the pictures, as bytes, paths or URLs.
        resume: go on with results that are there: what they have is not classified again.
        overwrite: replace results that are there.
        rows_per_part: rows after which a part is written. What a killed run had beyond its last part is done again.
        readers: pictures that are fetched at the same time from a slow storage.
        workers: threads that read pictures and run the network; by default as many as fit on the CPUs.
        batch_size: images a call of the engine.
        ray: address of a Ray cluster that does the work, such as ``auto``; every node needs to reach the model and the
            pictures, which are files, folders, globs and lists then.
        on_picture: called after each picture with whether it could be read.
        load: further options of ``ghostzoo.load``.

    Returns:
        How many pictures there are, and how many could not be read; those have a row with their error.

    Raises:
        InputError: the source is not there, has no pictures, or cannot be listed; or ``out`` cannot be used.
        GhostZooError: the model cannot be used.
    """
    for name, value in (("rows_per_part", rows_per_part), ("readers", readers)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{name} must be a whole number from 1 on, not {value!r}.")
    if resume and overwrite:
        raise OptionError("resume goes on with results and overwrite replaces them; give one of the two.")
    _require_arrow(fspath(out))
    choice = Choice(top_k, min_score, calibrated, coverage, unknown_below, group)
    task = Task.of(model, embeddings=embeddings, batch_size=batch_size, **vars(choice), **load)
    limits: ImageLimits = load.get("limits") or ImageLimits()
    labels = load.get("labels")
    start = time.perf_counter()
    with task.classifier:
        settings = {
            "model": task.facts["model_sha256"],
            "top_k": top_k,
            "min_score": min_score,
            "embeddings": embeddings,
            **dict(task.ranking),
            **({"labels": fspath(labels) if isinstance(labels, PathLike) else labels} if labels is not None else {}),
        }
        results = Results(fspath(out), settings, resume=resume, overwrite=overwrite)
        try:
            before = results.done
            items = find_items(source, column, limits.max_bytes)
            if before:
                items = _not_yet(items, results.finished_names())
            if ray is None:
                rows = _rows_here(task, read_ahead(items, readers), workers)
            else:
                rows = _rows_of_cluster(task, items, limits.max_bytes, ray)
            _write(rows, task.facts, results, rows_per_part, on_picture)
        finally:
            results.close()
    return BatchReport(results.place, results.done, results.failed, before, time.perf_counter() - start)


def _not_yet(items: Iterator[Item], finished: Names) -> Iterator[Item]:
    return (item for item in items if item.name not in finished)


def _rows_here(task: Task, items: Iterator[Item], workers: int | None) -> Iterator[tuple[str, Row]]:
    taken: deque[str] = deque()

    def images() -> Iterator[Any]:
        for item in items:
            taken.append(item.name)
            yield item.image

    for row in task.rows(images(), workers):
        yield taken.popleft(), row


def _rows_of_cluster(task: Task, items: Iterator[Item], max_bytes: int, address: str) -> Iterator[tuple[str, Row]]:
    cluster = import_module("ghostzoo.ray")
    while places := [_place(item) for item in islice(items, NAMES_AT_ONCE)]:
        yield from cluster.run(task, places, max_bytes, address)


def _place(item: Item) -> str:
    if isinstance(item.image, Encoded):
        raise InputError(
            f"{item.name} is inside another file, which a cluster cannot fetch by its name; give files, folders or "
            "lists, or use ghostzoo.ray.classify on a dataset of Ray's."
        )
    return item.name


def _write(
    rows: Iterator[tuple[str, Row]],
    facts: dict[str, str],
    results: Results,
    rows_per_part: int,
    on_picture: Callable[[bool], object] | None,
) -> None:
    part: list[tuple[str, Row]] = []
    try:
        for name, row in rows:
            part.append((name, row))
            if on_picture is not None:
                on_picture(row.error is None)
            if len(part) == rows_per_part:
                results.write(part, facts)
                part = []
    finally:
        if part:  # also when a source or the engine fails: what is done is done
            results.write(part, facts)


def _require_arrow(out: str) -> None:
    if not out.rstrip("/").endswith(".parquet"):
        return
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError:
        raise InputError(
            f"{out} needs pyarrow, which is not installed; pip install 'ghostzoo[batch]', or write to a name that ends "
            "in .jsonl."
        ) from None

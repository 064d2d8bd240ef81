"""Take the figures: all cells of a model are open at once and take turns, so that noise meets all of them alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .._utils.timing import time_in_turn
from ..bundle.folder import MODEL_FILES, Bundle
from ..catalog import get_model, is_model
from ..classifier import Classifier
from ..engines import engine_names, engine_record
from ..errors import GhostZooError, InputError
from ..fetch.options import FetchOptions
from ..fetch.resolver import fetch
from ..loading import load
from .machine import describe_machine
from .probe import probe
from .results import Cell, Measurement, ModelFacts, Results, Timing
from .sample_image import jpeg

THREADS = (1, 2, 4)
BATCH_SIZES = (1, 4, 8)
"""Those of the original's tables."""


def installed_engines() -> list[str]:
    """Names of the engines whose library is installed."""
    return [name for name in engine_names() if engine_record(name).versions()]


def plan_cells(
    models: Sequence[str],
    engines: Sequence[str],
    precisions: Sequence[str],
    threads: Sequence[int],
    batch_sizes: Sequence[int],
) -> list[Cell]:
    """Every combination of the two tables: all ``threads`` at batch 1, all ``batch_sizes`` at the first of them."""
    settings = [(count, 1) for count in threads] + [(threads[0], size) for size in batch_sizes]
    return [
        Cell(model, engine, precision, count, size)
        for model in models
        for precision in dict.fromkeys(precisions)
        for engine in dict.fromkeys(engines)
        for count, size in dict.fromkeys(settings)
    ]


def run_bench(
    cells: Sequence[Cell],
    *,
    seconds: float,
    picture: bytes | None = None,
    fetching: FetchOptions | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Results:
    """Measure ``cells``.

    Args:
        cells: what to measure; ``model`` is anything that ``ghostzoo.load`` takes.
        seconds: time for the rounds of each cell; loading comes on top.
        picture: an encoded image to classify; a made one by default.
        fetching: where models come from.
        on_step: told of each cell as its turn to be opened comes, and of each model's rounds.

    Raises:
        UnknownModelError, FetchError, BundleError: a model cannot be had; found before anything is measured.
        InputError: no cell could be measured; the message has the reason of the first.
    """
    fetching = fetching or FetchOptions()
    for model in dict.fromkeys(cell.model for cell in cells):
        fetch(model, fetching).release()
    machine = describe_machine()
    picture = picture if picture is not None else jpeg()
    facts: list[ModelFacts] = []
    measurements: list[Measurement] = []
    left_out: list[tuple[str, str]] = []
    for model in dict.fromkeys(cell.model for cell in cells):
        with ExitStack() as opened:
            classifiers: dict[Cell, Classifier] = {}
            for cell in (cell for cell in cells if cell.model == model):
                on_step(str(cell))
                try:
                    classifiers[cell] = opened.enter_context(load(**_arguments(cell, fetching)))
                    list(_predict(classifiers[cell], cell, picture))
                except GhostZooError as error:
                    classifiers.pop(cell, None)
                    left_out.append((str(cell), " ".join(str(error).split())))
            if not classifiers:
                continue
            facts.append(_facts(model, next(iter(classifiers.values())).bundle))
            on_step(f"{model}: rounds")
            measurements += _measure(classifiers, seconds, picture, fetching)
    if not measurements:
        raise InputError(f"Nothing could be measured. {left_out[0][1]}")
    return Results(machine, tuple(facts), tuple(measurements), tuple(left_out))


def _arguments(cell: Cell, fetching: FetchOptions) -> dict[str, Any]:
    return {
        "model": cell.model,
        "engine": cell.engine,
        "precision": cell.precision,
        "threads": cell.threads,
        "batch_size": cell.batch_size,
        **vars(replace(fetching, progress=None)),  # a process of its own draws no bar
    }


def _predict(classifier: Classifier, cell: Cell, picture: bytes) -> Iterator[Any]:
    return classifier.predict([picture] * cell.batch_size, batch_size=cell.batch_size, workers=1)


def _measure(
    classifiers: dict[Cell, Classifier], seconds: float, picture: bytes, fetching: FetchOptions
) -> Iterator[Measurement]:
    network: dict[Cell, Callable[[], object]] = {}
    whole: dict[Cell, Callable[[], object]] = {}
    for cell, classifier in classifiers.items():
        size = classifier.bundle.config.image_size
        pixels = np.random.default_rng(0).normal(size=(cell.batch_size, 3, size, size)).astype(np.float32)
        network[cell] = partial(classifier.engine.run, pixels)
        whole[cell] = partial(_drain, classifier, cell, picture)
    in_network = time_in_turn(network, seconds / 2 * len(network))
    in_whole = time_in_turn(whole, seconds / 2 * len(whole))
    for cell in classifiers:
        load_seconds, peak_memory = probe(_arguments(cell, fetching))
        yield Measurement(cell, Timing.of(in_network[cell]), Timing.of(in_whole[cell]), load_seconds, peak_memory)


def _drain(classifier: Classifier, cell: Cell, picture: bytes) -> None:
    if cell.batch_size == 1:
        classifier(picture)
    else:
        deque(_predict(classifier, cell, picture), maxlen=0)


def _facts(model: str, bundle: Bundle) -> ModelFacts:
    record = get_model(bundle.name) if is_model(bundle.name) else None
    published = record.published if record is not None else None
    return ModelFacts(
        name=model,
        top1=record.figures.top1 if record is not None else None,
        file_sizes={precision: bundle.manifest.files[MODEL_FILES[precision]].size for precision in bundle.precisions},
        published_storage_mb=published.storage_mb if published is not None else None,
        published_snapdragon855_ms=_by(THREADS, published.snapdragon855_ms if published is not None else ()),
        published_v100_ms=_by(BATCH_SIZES, published.v100_ms if published is not None else ()),
    )


def _by(keys: Sequence[int], values: Sequence[float]) -> dict[str, float]:
    """With text as keys, as JSON has it."""
    return {str(key): value for key, value in zip(keys, values, strict=False)}

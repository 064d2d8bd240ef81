"""Which engine runs a model: the one that was named, or the fastest one that gives right answers on this machine.

The candidates are filtered by pure functions, each of which returns what it kept and why it discarded the rest. What
remains is opened, checked against the bundle's golden vectors, and measured. The decision is kept in the cache folder
until the model, the options, the machine or a version of an engine changes; ``load`` then imports the chosen one alone.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from .._utils.cache import cache_folder, cache_key, read_cached, write_cached
from .._utils.hardware import usable_cpus
from .._utils.timing import median_ms, time_in_turn
from .._version import __version__
from ..bundle.folder import COMPUTED, Bundle
from ..errors import EngineUnavailableError, GhostZooError, OptionError, UnknownEngineError
from . import EngineRecord, engine_class, engine_names, engine_record
from .base import Engine, EngineOptions
from .candidates import (
    Candidate,
    Discarded,
    Measured,
    Origin,
    Selection,
    find_devices,
    keep_checked,
    keep_devices,
    keep_installed,
    keep_precise,
    keep_with_files,
    reason_of,
)
from .devices import check_device_kind, is_same_device, missing_device
from .model_cache import cpu_facts

AUTO = "auto"
ENGINE_VARIABLE = "GHOSTZOO_ENGINE"
"""Environment variable that names the engine if the caller does not."""

MEASURING_SECONDS = 3.0
"""Time limit of the first decision."""
OPENING_SECONDS = 1.5
"""After this time no other candidate is opened: opening one takes up to a second."""
ROUNDS_SECONDS = 0.3
"""Time to measure each candidate, if that much is left."""
REQUIRED_GAIN = 0.9
"""An engine that needs another import must take less than this share of the base engine's time."""
BASE_ENGINE = "onnxruntime"
"""The engine that every installation has."""

_ACCELERATORS = ("nvidia[0-9]*", "dri/renderD*", "accel/accel*", "kfd")
"""Device files below ``/dev`` of GPUs and NPUs."""


def check_engine_name(engine: str) -> None:
    """Check the name of an engine, or ``auto``, before any work is done.

    Raises:
        UnknownEngineError: there is no such engine.
    """
    if engine != AUTO:
        engine_record(engine)


def open_engine(bundle: Bundle, engine: str, options: EngineOptions) -> tuple[Engine, Selection]:
    """Open ``bundle`` with ``engine``, or with the fastest engine for ``auto``.

    Raises:
        GhostZooError: the engine that was asked for cannot be used, or no engine can; the message says why.
    """
    origin: Origin = "asked for"
    named = os.environ.get(ENGINE_VARIABLE)
    if engine == AUTO and named:
        engine, origin = named, "environment"
    if engine != AUTO:
        try:
            engine_record(engine)
        except UnknownEngineError as error:
            raise UnknownEngineError(f"{ENGINE_VARIABLE}: {error}" if origin == "environment" else str(error)) from None
        bundle.converted_files(engine)  # before the library is imported, which may not be worth installing
        loaded = engine_class(engine).load(bundle, options)
        reason = f"{ENGINE_VARIABLE} names it" if origin == "environment" else "the caller named it"
        return loaded, Selection(engine, loaded.device, origin, reason)
    if options.engine_options:
        raise OptionError("engine_options are in the terms of one engine: name it, as in engine='onnxruntime'.")
    return _open_fastest(bundle, options)


def _open_fastest(bundle: Bundle, options: EngineOptions) -> tuple[Engine, Selection]:
    if options.device is not None:
        check_device_kind(options.device)
    records = [engine_record(name) for name in engine_names()]
    versions = {record.name: record.versions() for record in records}
    name = f"selection/{_decision_key(bundle, options, versions)}"
    decision = _read_decision(name)
    if decision is not None and not engine_record(decision.engine).reads_unchecked:
        try:
            chosen = engine_class(decision.engine).load(bundle, replace(options, device=decision.device))
            return chosen, decision
        except EngineUnavailableError:
            pass  # a device or driver has gone since: decide again
    loaded, selection = select(bundle, options, records, versions)
    if selection.complete:
        write_cached(name, json.dumps(selection.to_dict()).encode())
    return loaded, selection


def _decision_key(bundle: Bundle, options: EngineOptions, versions: Mapping[str, Mapping[str, str]]) -> str:
    threads = options.thread_count  # as the machine allows now, not only as requested
    machine = (platform.system(), platform.release(), cpu_facts(), usable_cpus(), os.cpu_count(), _accelerators())
    model = sorted((name, record.sha256) for name, record in bundle.manifest.files.items())
    return cache_key(
        __version__, model, asdict(options), threads, machine, sorted(map(repr, versions.items())), _builds()
    )


def _builds() -> list[str]:
    """Builds for engines that are discarded until they have one."""
    folders = [cache_folder() / record.builds for record in map(engine_record, engine_names()) if record.builds]
    return sorted(path.name for folder in folders for path in folder.glob("*") if path.suffix != ".lock")


def _accelerators() -> list[str]:
    return sorted(str(path) for pattern in _ACCELERATORS for path in Path("/dev").glob(pattern))


def _read_decision(name: str) -> Selection | None:
    data = read_cached(name)
    try:
        return None if data is None else replace(Selection.from_json(data), origin="cached")
    except (ValueError, TypeError, KeyError):
        return None


def select(
    bundle: Bundle,
    options: EngineOptions,
    records: Sequence[EngineRecord],
    versions: Mapping[str, Mapping[str, str]],
) -> tuple[Engine, Selection]:
    """Measure ``records`` on this machine; return the best engine, opened, and the report.

    Raises:
        GhostZooError: none can be used; the message names the cause.
    """
    start = time.perf_counter()
    tried = _open_all(bundle, options, records, versions, start + OPENING_SECONDS)
    opened, discarded = tried.opened, [*tried.discarded, *tried.failed]
    if not opened:
        raise _failure(bundle, options, tried)
    left = start + MEASURING_SECONDS - time.perf_counter()
    # A single candidate is measured too, for the report, but not for long.
    seconds = min(left, ROUNDS_SECONDS * len(opened)) if len(opened) > 1 else 0.0
    measured = measure(bundle, opened, options.batch_size or 1, seconds)
    best = rank(measured)[0]
    chosen = opened[measured.index(best)].engine
    for other in opened:
        if other.engine is not chosen:
            other.engine.close()
    complete = all(item.reason != _untried() for item in discarded)
    return chosen, Selection(
        best.engine,
        best.device,
        "measured",
        explain(best, measured, complete),
        tuple(sorted(measured, key=lambda row: row.milliseconds)),
        tuple(discarded),
        complete,
    )


@dataclass
class _Tried:
    """What became of the candidates."""

    opened: list[Opened] = field(default_factory=list)
    discarded: list[Discarded] = field(default_factory=list)
    """Engines that were not asked to open the model."""
    failed: list[Discarded] = field(default_factory=list)
    """Engines that were asked and could not, or whose library is broken."""
    devices: list[str] = field(default_factory=list)
    """That the installed engines find."""


def _open_all(
    bundle: Bundle,
    options: EngineOptions,
    records: Sequence[EngineRecord],
    versions: Mapping[str, Mapping[str, str]],
    deadline: float,
) -> _Tried:
    with_files, without_files = keep_with_files(records, bundle)
    checked, unchecked = keep_checked(with_files)
    precise, imprecise = keep_precise(checked, bundle, options.precision)
    kept, absent = keep_installed(precise, versions)
    tried = _Tried(discarded=without_files + unchecked + imprecise + absent)
    for record in kept:
        if tried.opened and time.perf_counter() > deadline:  # not even imported: that may take longest
            tried.discarded.append(Discarded(record.name, None, _untried()))
            continue
        found, unusable = find_devices(record)
        candidates, unsuitable = keep_devices(found, options)
        tried.devices += [candidate.device for candidate in found]
        tried.discarded += unsuitable
        tried.failed += unusable
        for candidate in candidates:
            if tried.opened and time.perf_counter() > deadline:
                tried.discarded.append(candidate.discard(_untried()))
                continue
            try:
                tried.opened.append(open_checked(bundle, candidate, options))
            except Exception as error:  # a library that is broken or half installed may raise anything
                tried.failed.append(candidate.discard(reason_of(error)))
    return tried


def _failure(bundle: Bundle, options: EngineOptions, tried: _Tried) -> GhostZooError:
    """Return the one cause for which no engine can be used."""
    device = options.device
    if options.precision not in (*bundle.precisions, *COMPUTED):
        return bundle.missing_precision(options.precision)
    if device is not None and not any(is_same_device(device, found) for found in tried.devices):
        return missing_device(device, tried.devices)
    if device is not None and device.lower() != "cpu" and options.threads is not None:
        return OptionError(f"Only a CPU has threads, not {device}; leave threads out.")
    if tried.failed:
        return EngineUnavailableError(f"No engine can run {bundle.name}. {' '.join(map(str, tried.failed))}")
    return EngineUnavailableError(
        f"No engine is installed that runs {bundle.name} unless it is named; run 'pip install onnxruntime'."
    )


def _untried() -> str:
    return f"not tried this time: {OPENING_SECONDS:g} s were used up."


def rank(measured: Iterable[Measured]) -> list[Measured]:
    """Sort by time; an engine that needs another import ranks behind the base engine unless it is clearly faster."""

    def cost(row: Measured) -> tuple[float, str]:
        return row.milliseconds / (1.0 if row.engine == BASE_ENGINE else REQUIRED_GAIN), row.engine

    return sorted(measured, key=cost)


def explain(best: Measured, measured: Sequence[Measured], complete: bool = True) -> str:
    """Say in one sentence why ``best`` was chosen."""
    others = [row for row in measured if row is not best]
    if not others:
        return f"{best} is the only one that {'can be used here' if complete else 'there was time for'}."
    fastest = min(others, key=lambda row: row.milliseconds)
    figures = f"{best.milliseconds:.2f} ms against {fastest.milliseconds:.2f} ms of {fastest}"
    if fastest.milliseconds < best.milliseconds:
        return f"{best} needs no further import, and the others win by too little: {figures}."
    return f"{best} was the fastest: {figures}."


@dataclass(frozen=True)
class Opened:
    """A candidate that gave the right answers."""

    engine: Engine
    relative_difference: float
    """Difference from the golden logits, as a fraction of their scale."""


def open_checked(bundle: Bundle, candidate: Candidate, options: EngineOptions) -> Opened:
    """Open ``bundle`` with the candidate and hold its answers against the golden vectors.

    Raises:
        EngineError: its answers are wrong.
        EngineUnavailableError: opening it would take too long.
        GhostZooError: it cannot be opened with these options.
    """
    kind = engine_class(candidate.engine)
    wanted = replace(options, device=candidate.device)
    slow = kind.slow_start(bundle, wanted)
    if slow is not None:
        raise EngineUnavailableError(slow)
    engine = kind.load(bundle, wanted)
    try:
        agreement = bundle.golden().require(engine.run, options.precision, engine.name)
    except BaseException:
        engine.close()
        raise
    return Opened(engine, agreement.relative)


def measure(bundle: Bundle, opened: Sequence[Opened], batch_size: int, seconds: float) -> list[Measured]:
    """Time calls with ``batch_size`` images for about ``seconds`` in all; return a row for each, in the same order."""
    pixels = bundle.golden().pixel_values
    batch = np.ascontiguousarray(np.resize(pixels, (batch_size, *pixels.shape[1:])))
    calls = {str(index): partial(item.engine.run, batch) for index, item in enumerate(opened)}
    durations = time_in_turn(calls, seconds)
    return [
        Measured(
            item.engine.name,
            item.engine.device,
            str(item.engine.describe()["version"]),
            batch_size,
            item.engine.options.thread_count,
            round(median_ms(durations[str(index)]), 4),
            item.relative_difference,
        )
        for index, item in enumerate(opened)
    ]

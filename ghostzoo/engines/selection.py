"""Which engine runs a model: the one that was named, or the fastest one that gives right answers on this machine.

The ``candidates`` are measured. The decision is kept in the cache folder until the model, the options, the machine or a
version of an engine changes; ``load`` then imports the chosen one alone.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .._utils.cache import cache_folder, cache_key, read_cached, write_cached
from .._utils.hardware import cpu_facts, usable_cpus
from .._version import __version__
from ..bundle.folder import COMPUTED, CONVERTED_FILES, Bundle
from ..errors import EngineUnavailableError, GhostZooError, OptionError, UnknownEngineError
from . import EngineRecord, engine_class, engine_names, engine_record
from .base import Engine, EngineOptions
from .candidates import Discarded, Measured, Tried, measure, open_all, untried
from .devices import check_device_kind, is_same_device, missing_device

Origin = Literal["asked for", "environment", "measured", "cached"]
AUTO = "auto"
ENGINE_VARIABLE = "GHOSTZOO_ENGINE"
"""Environment variable that names the engine if the caller does not."""

MEASURING_SECONDS = 3.0
"""Time limit of the first decision."""
ROUNDS_SECONDS = 0.3
"""Time to measure each candidate, if that much is left."""
REQUIRED_GAIN = 0.9
"""An engine that needs another import must take less than this share of the base engine's time."""
BASE_ENGINE = "onnxruntime"
"""The engine that every installation has."""

_ACCELERATORS = ("nvidia[0-9]*", "dri/renderD*", "accel/accel*", "kfd")
"""Device files below ``/dev`` of GPUs and NPUs."""


@dataclass(frozen=True)
class Selection:
    """The engine that runs, and everything that led to it."""

    engine: str
    device: str
    origin: Origin
    reason: str
    measured: tuple[Measured, ...] = ()
    """Fastest first."""
    discarded: tuple[Discarded, ...] = ()
    complete: bool = True
    """False if time ran out before all were tried: such a decision is not kept."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: bytes) -> Selection:
        """Read the result of ``to_dict``.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        content = json.loads(data)
        content["measured"] = tuple(Measured(**row) for row in content["measured"])
        content["discarded"] = tuple(Discarded(**row) for row in content["discarded"])
        return cls(**content)

    def __str__(self) -> str:
        lines = [f"{self.engine} on {self.device} ({self.origin}): {self.reason}"]
        lines += [row.to_line() for row in self.measured]
        lines += [f"{'-':>10}  {item}" for item in self.discarded]
        return "\n".join(lines)


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
        # Before the library is imported, which may not be worth installing.
        bundle.converted_files(engine, options.precision)
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
    tried = open_all(bundle, options, records, versions)
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
    complete = all(item.reason != untried() for item in discarded)
    return chosen, Selection(
        best.engine,
        best.device,
        "measured",
        explain(best, measured, complete),
        tuple(sorted(measured, key=lambda row: row.milliseconds)),
        tuple(discarded),
        complete,
    )


def _failure(bundle: Bundle, options: EngineOptions, tried: Tried) -> GhostZooError:
    """Return the one cause for which no engine can be used."""
    device = options.device
    has_files = any(failed.engine in CONVERTED_FILES for failed in tried.failed)
    if not has_files and options.precision not in (*bundle.precisions, *COMPUTED):
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

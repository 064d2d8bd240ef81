"""Which engine runs a model: the one that was asked for, or the fastest one that proves right on this machine.

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
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from .. import __version__
from ..bundle import Bundle
from ..cache import cache_key, read_cached, write_cached
from ..cpus import usable_cpus
from ..errors import EngineUnavailableError, GhostZooError, OptionError
from ..parity import engine_tolerance
from ..timing import median_ms, time_in_turn
from . import EngineRecord, engine_class, engine_names, engine_record
from .base import Engine, EngineOptions

AUTO = "auto"
ENGINE_VARIABLE = "GHOSTZOO_ENGINE"
"""Environment variable that names the engine where the caller does not."""

MEASURING_SECONDS = 3.0
"""No further candidate is opened after this time."""
ROUNDS_SECONDS = 0.3
"""Time for the measured rounds, for each candidate."""
REQUIRED_GAIN = 0.9
"""What needs a further import must take less than this share of the time of the engine that needs none."""
BASE_ENGINE = "onnxruntime"
"""The engine that every installation has."""

Origin = Literal["asked for", "environment", "measured", "cached"]


@dataclass(frozen=True)
class Candidate:
    """An engine on one device, by the engine's own name for it."""

    engine: str
    device: str


@dataclass(frozen=True)
class Discarded:
    """A candidate that was not taken into account, and why; without a device where the engine itself is not usable."""

    engine: str
    device: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.engine}{f' on {self.device}' if self.device else ''}: {self.reason}"


@dataclass(frozen=True)
class Measured:
    """A candidate that gave the right answers, and how long it took for one call."""

    engine: str
    device: str
    version: str
    batch_size: int
    threads: int
    milliseconds: float
    """Median of a call with ``batch_size`` images."""
    relative_difference: float
    """Largest difference from the golden logits, as a fraction of their scale."""

    def __str__(self) -> str:
        return f"{self.engine} on {self.device}"


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

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: bytes) -> Selection:
        """Read what ``to_dict`` gave.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        content = json.loads(data)
        content["measured"] = tuple(Measured(**row) for row in content["measured"])
        content["discarded"] = tuple(Discarded(**row) for row in content["discarded"])
        return cls(**content)


@dataclass(frozen=True)
class _Opened:
    engine: Engine
    difference: float
    """From the golden logits, as a fraction of their scale."""


def check_name(engine: str) -> None:
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
        loaded = engine_class(engine).load(bundle, options)
        reason = f"{ENGINE_VARIABLE} names it" if origin == "environment" else "the caller named it"
        return loaded, Selection(engine, loaded.device, origin, reason)
    if options.engine_options:
        raise OptionError("engine_options are in the terms of one engine: name it, as in engine='onnxruntime'.")
    return _open_fastest(bundle, options)


def _open_fastest(bundle: Bundle, options: EngineOptions) -> tuple[Engine, Selection]:
    records = [engine_record(name) for name in engine_names()]
    versions = {record.name: record.versions() for record in records}
    name = f"selection/{_decision_key(bundle, options, versions)}"
    decision = _read_decision(name)
    if decision is not None:
        try:
            chosen = engine_class(decision.engine).load(bundle, replace(options, device=decision.device))
            return chosen, decision
        except EngineUnavailableError:
            pass  # a device or driver has gone since: decide again
    loaded, selection = select(bundle, options, records, versions)
    write_cached(name, json.dumps(selection.to_dict()).encode())
    return loaded, selection


def _decision_key(bundle: Bundle, options: EngineOptions, versions: Mapping[str, Mapping[str, str]]) -> str:
    threads = options.thread_count  # what the machine allows now counts, not only what was asked for
    machine = (platform.system(), platform.machine(), platform.release(), usable_cpus(), os.cpu_count())
    model = bundle.model_hash(options.precision)
    return cache_key(__version__, model, asdict(options), threads, machine, sorted(map(repr, versions.items())))


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
        EngineUnavailableError: none can be used; the message has every reason.
    """
    deadline = time.perf_counter() + MEASURING_SECONDS
    kept, discarded = keep_installed(records, versions)
    opened: list[_Opened] = []
    for record in kept:
        candidates, unsuitable = _candidates(record, options)
        discarded += unsuitable
        for candidate in candidates:
            if opened and time.perf_counter() > deadline:
                discarded.append(_discard(candidate, f"not measured, since {MEASURING_SECONDS:g} s were used up."))
                continue
            try:
                opened.append(_open_checked(bundle, candidate, options))
            except GhostZooError as error:
                discarded.append(_discard(candidate, str(error)))
    if not opened:
        raise EngineUnavailableError(f"No engine can run {bundle.name}. {' '.join(map(str, discarded))}")
    measured = _measure(bundle, opened, options)
    best = rank(measured)[0]
    chosen = opened[measured.index(best)].engine
    for other in opened:
        if other.engine is not chosen:
            other.engine.close()
    fastest_first = tuple(sorted(measured, key=lambda row: row.milliseconds))
    return chosen, Selection(
        best.engine, best.device, "measured", explain(best, measured), fastest_first, tuple(discarded)
    )


def keep_installed(
    records: Iterable[EngineRecord], versions: Mapping[str, Mapping[str, str]]
) -> tuple[list[EngineRecord], list[Discarded]]:
    """Keep the engines whose library is installed."""
    kept, discarded = [], []
    for record in records:
        if versions[record.name]:
            kept.append(record)
        else:
            discarded.append(Discarded(record.name, None, f"not installed; '{record.install}' installs it."))
    return kept, discarded


def keep_devices(candidates: Iterable[Candidate], options: EngineOptions) -> tuple[list[Candidate], list[Discarded]]:
    """Keep the candidates on devices that the options leave open: the one named, or CPUs where threads are counted."""
    kept, discarded = [], []
    for candidate in candidates:
        device = candidate.device.lower()
        if options.device is not None and device != options.device.lower():
            discarded.append(_discard(candidate, f"device {options.device!r} was asked for."))
        elif options.threads is not None and device != "cpu":
            discarded.append(_discard(candidate, "threads were asked for, which only a CPU has."))
        else:
            kept.append(candidate)
    return kept, discarded


def rank(measured: Iterable[Measured]) -> list[Measured]:
    """Order by time; what needs a further import stands behind the base engine unless it is clearly faster."""

    def cost(row: Measured) -> tuple[float, str]:
        return row.milliseconds / (1.0 if row.engine == BASE_ENGINE else REQUIRED_GAIN), row.engine

    return sorted(measured, key=cost)


def explain(best: Measured, measured: Sequence[Measured]) -> str:
    """Say in one sentence why ``best`` was chosen."""
    others = [row for row in measured if row is not best]
    if not others:
        return f"{best} is the only one that can be used here."
    fastest = min(others, key=lambda row: row.milliseconds)
    figures = f"{best.milliseconds:.2f} ms against {fastest.milliseconds:.2f} ms of {fastest}"
    if fastest.milliseconds < best.milliseconds:
        return f"{best} needs no further import, and the others win by too little: {figures}."
    return f"{best} was the fastest: {figures}."


def _candidates(record: EngineRecord, options: EngineOptions) -> tuple[list[Candidate], list[Discarded]]:
    try:
        kind = record.load_class()
        devices = [Candidate(record.name, device) for device in kind.devices()]
    except GhostZooError as error:
        return [], [Discarded(record.name, None, str(error))]
    if not devices:
        return [], [Discarded(record.name, None, f"it finds no {kind.default_device} on this machine.")]
    return keep_devices(devices, options)


def _discard(candidate: Candidate, reason: str) -> Discarded:
    return Discarded(candidate.engine, candidate.device, reason)


def _open_checked(bundle: Bundle, candidate: Candidate, options: EngineOptions) -> _Opened:
    """Open the candidate and hold it against the golden vectors."""
    kind = engine_class(candidate.engine)
    wanted = replace(options, device=candidate.device)
    slow = kind.slow_start(bundle, wanted)
    if slow is not None:
        raise EngineUnavailableError(slow)
    engine = kind.load(bundle, wanted)
    try:
        tolerance = engine_tolerance(options.precision)
        agreement = bundle.golden().check(engine.run, tolerance)
        if not agreement.within(tolerance):
            raise EngineUnavailableError(f"failed the golden check: {agreement}; at most {tolerance:g} is accepted.")
    except BaseException:
        engine.close()
        raise
    return _Opened(engine, agreement.relative)


def _measure(bundle: Bundle, opened: Sequence[_Opened], options: EngineOptions) -> list[Measured]:
    pixels = bundle.golden().pixel_values
    size = options.batch_size or 1
    batch = np.ascontiguousarray(np.resize(pixels, (size, *pixels.shape[1:])))
    calls = {str(index): partial(item.engine.run, batch) for index, item in enumerate(opened)}
    # A single candidate is measured too, for the report, but not for long.
    durations = time_in_turn(calls, ROUNDS_SECONDS * len(calls) if len(calls) > 1 else 0.0)
    return [
        Measured(
            item.engine.name,
            item.engine.device,
            str(item.engine.describe()["version"]),
            size,
            options.thread_count,
            round(median_ms(durations[str(index)]), 4),
            item.difference,
        )
        for index, item in enumerate(opened)
    ]

"""The engines that may run a model here: found, filtered by pure functions, opened, checked and measured.

Each filter returns what it kept and why it discarded the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ..bundle.folder import COMPUTED, CONVERTED_FILES, Bundle
from ..errors import EngineUnavailableError, GhostZooError, OptionError
from . import EngineRecord, engine_class
from .base import Engine, EngineOptions
from .devices import is_same_device

OPENING_SECONDS = 1.5
"""After this time no other candidate is opened: opening one takes up to a second."""


@dataclass(frozen=True)
class Discarded:
    """A candidate that was discarded, and why; it has no device if the engine itself is unusable."""

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

    def to_line(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return (
            f"{self.milliseconds:7.2f} ms  {self.engine} {self.version} on {self.device}, batch {self.batch_size}, "
            f"{threads}; differs by {self.relative_difference:.1e} of the logits' scale"
        )


@dataclass(frozen=True)
class Candidate:
    """An engine on one device, by the engine's own name for it."""

    engine: str
    device: str

    def discard(self, reason: str) -> Discarded:
        return Discarded(self.engine, self.device, reason)


def keep_installed(
    records: Iterable[EngineRecord], versions: Mapping[str, Mapping[str, str]]
) -> tuple[list[EngineRecord], list[Discarded]]:
    """Keep the engines whose library is installed."""
    kept, discarded = [], []
    for record in records:
        if versions[record.name]:
            kept.append(record)
        else:
            reason, command = record.why_missing()
            install = f" (install it with: {command})" if command else ""
            discarded.append(Discarded(record.name, None, f"{reason}{install}."))
    return kept, discarded


def keep_with_files(
    records: Iterable[EngineRecord], bundle: Bundle, precision: str
) -> tuple[list[EngineRecord], list[Discarded]]:
    """Keep the engines that read ONNX, and those whose own format the bundle includes in ``precision``."""
    kept, discarded = [], []
    for record in records:
        try:
            bundle.converted_files(record.name, precision)
            kept.append(record)
        except (EngineUnavailableError, OptionError) as error:
            discarded.append(Discarded(record.name, None, str(error)))
    return kept, discarded


def keep_checked(records: Iterable[EngineRecord]) -> tuple[list[EngineRecord], list[Discarded]]:
    """Keep the engines whose files are checked before the library reads them; the others must be named."""
    kept, discarded = [], []
    for record in records:
        if record.reads_unchecked:
            reason = (
                f"its library reads the model's file unchecked, so it is not tried unless it is named, as in "
                f"engine={record.name!r}, for a model that you trust."
            )
            discarded.append(Discarded(record.name, None, reason))
        else:
            kept.append(record)
    return kept, discarded


def keep_precise(
    records: Iterable[EngineRecord], bundle: Bundle, precision: str
) -> tuple[list[EngineRecord], list[Discarded]]:
    """Keep the engines that can run ``bundle`` in ``precision``: from a graph that it has, or that they make.

    Those with files of their own are passed over: ``keep_with_files`` has seen to them.
    """
    kept, discarded = [], []
    for record in records:
        if record.name in CONVERTED_FILES or precision in (*bundle.precisions, *record.makes):
            kept.append(record)
        else:
            lacks = (
                "it does not compute in bf16" if precision in COMPUTED else f"{bundle.name} has no {precision} graph"
            )
            discarded.append(Discarded(record.name, None, f"{lacks}."))
    return kept, discarded


def keep_devices(candidates: Iterable[Candidate], options: EngineOptions) -> tuple[list[Candidate], list[Discarded]]:
    """Keep the candidates on devices that the options allow: the one named, or CPUs if threads are set."""
    kept, discarded = [], []
    for candidate in candidates:
        device = candidate.device.lower()
        if options.device is not None and not is_same_device(device, options.device):
            discarded.append(candidate.discard(f"device {options.device!r} was asked for."))
        elif options.threads is not None and device != "cpu":
            discarded.append(candidate.discard("threads were asked for, which only a CPU has."))
        else:
            kept.append(candidate)
    return kept, discarded


def find_devices(record: EngineRecord) -> tuple[list[Candidate], list[Discarded]]:
    """Import an installed engine and ask it for its devices."""
    try:
        kind = record.load_class()
        devices = [Candidate(record.name, device) for device in kind.devices()]
    except Exception as error:  # a library that is broken or half installed may raise anything
        return [], [Discarded(record.name, None, reason_of(error))]
    if not devices:
        return [], [Discarded(record.name, None, f"it finds no {kind.default_device} on this machine.")]
    return devices, []


def reason_of(error: Exception) -> str:
    """Why an engine cannot be used: our own message, or its library's error with its class."""
    if isinstance(error, GhostZooError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


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


@dataclass
class Tried:
    """What became of the candidates."""

    opened: list[Opened] = field(default_factory=list)
    discarded: list[Discarded] = field(default_factory=list)
    """Engines that were not asked to open the model."""
    failed: list[Discarded] = field(default_factory=list)
    """Engines that were asked and could not, or whose library is broken."""
    devices: list[str] = field(default_factory=list)
    """That the installed engines find."""


def open_all(
    bundle: Bundle,
    options: EngineOptions,
    records: Sequence[EngineRecord],
    versions: Mapping[str, Mapping[str, str]],
) -> Tried:
    """Open ``bundle`` with all engines that may run it, until ``OPENING_SECONDS`` are over."""
    deadline = time.perf_counter() + OPENING_SECONDS
    with_files, without_files = keep_with_files(records, bundle, options.precision)
    checked, unchecked = keep_checked(with_files)
    precise, imprecise = keep_precise(checked, bundle, options.precision)
    kept, absent = keep_installed(precise, versions)
    tried = Tried(discarded=without_files + unchecked + imprecise + absent)
    for record in kept:
        if tried.opened and time.perf_counter() > deadline:  # not even imported: that may take longest
            tried.discarded.append(Discarded(record.name, None, untried()))
            continue
        found, unusable = find_devices(record)
        candidates, unsuitable = keep_devices(found, options)
        tried.devices += [candidate.device for candidate in found]
        tried.discarded += unsuitable
        tried.failed += unusable
        for candidate in candidates:
            if tried.opened and time.perf_counter() > deadline:
                tried.discarded.append(candidate.discard(untried()))
                continue
            try:
                tried.opened.append(open_checked(bundle, candidate, options))
            except Exception as error:  # a library that is broken or half installed may raise anything
                tried.failed.append(candidate.discard(reason_of(error)))
    return tried


def untried() -> str:
    return f"not tried this time: {OPENING_SECONDS:g} s were used up."


def measure(bundle: Bundle, opened: Sequence[Opened], batch_size: int, seconds: float) -> list[Measured]:
    """Time calls with ``batch_size`` images for about ``seconds`` in all; return a row for each, in the same order."""
    from .._utils.timing import median_ms, time_in_turn

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

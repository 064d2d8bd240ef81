"""What this machine offers, and which engines can be used on it: the facts that ``ghostzoo doctor`` shows."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._utils.cache import writable_folder
from .._utils.hardware import cpu_features, cpu_name, find_gpus, usable_cpus
from .._version import __version__
from ..bundle.folder import Bundle
from ..engines import EngineRecord, engine_names, engine_record, installation_conflict
from ..engines.base import EngineOptions
from ..engines.candidates import Opened, find_devices, keep_with_files, measure, open_checked, reason_of

BATCH_SIZES = (1, 8)
SECONDS = 0.5
"""Time for measuring, for each engine and batch size."""


@dataclass(frozen=True)
class Finding:
    """An engine on one of its devices, or an engine that cannot be used at all."""

    engine: str
    versions: dict[str, str]
    """Installed distributions and their versions."""
    device: str | None
    relative_difference: float | None
    """From the golden logits, as a fraction of their scale; ``None`` where the engine cannot be used."""
    milliseconds: dict[int, float]
    """Batch size -> median time of a call."""
    reason: str | None
    """Why it cannot be used; ``None`` where it can."""
    remedy: str | None
    """The command that mends it, where there is one."""

    @property
    def usable(self) -> bool:
        return self.reason is None


@dataclass(frozen=True)
class Report:
    """The state of an installation."""

    machine: dict[str, Any]
    model: str
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether at least one engine can be used."""
        return any(finding.usable for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        engines = [{**vars(finding), "usable": finding.usable} for finding in self.findings]
        return {
            "machine": self.machine,
            "model": self.model,
            "engines": engines,
            "warnings": list(self.warnings),
            "usable": self.usable,
        }


def examine(bundle: Bundle) -> Report:
    """Look at this machine, and try every engine on every device that it finds with ``bundle``.

    Each engine's answers are held against the golden vectors; those that are right are timed in turn with each other,
    with as many threads as this process may use.
    """
    records = [engine_record(name) for name in engine_names()]
    opened: list[tuple[EngineRecord, Opened]] = []
    unusable: list[Finding] = []
    for record in records:
        usable, failed = _try(record, bundle)
        opened += [(record, item) for item in usable]
        unusable += failed
    try:
        findings = _measured(opened, bundle) + unusable
    finally:
        for _, item in opened:
            item.engine.close()
    order = {record.name: index for index, record in enumerate(records)}
    findings.sort(key=lambda finding: order[finding.engine])
    return Report(_machine(), bundle.name, tuple(findings), tuple(_warnings()))


def _try(record: EngineRecord, bundle: Bundle) -> tuple[list[Opened], list[Finding]]:
    kept, failures = keep_with_files([record], bundle, "fp32")
    if kept and not record.versions():
        return [], [_unusable(record, None, *record.why_missing())]
    candidates, broken = find_devices(record) if kept else ([], [])
    # What mends a library that is installed is in its own words: a command here would only be a guess.
    failed = [_unusable(record, None, item.reason, None) for item in failures + broken]
    opened = []
    for candidate in candidates:
        try:
            opened.append(open_checked(bundle, candidate, EngineOptions()))
        except Exception as error:  # a library that is broken or half installed may raise anything
            failed.append(_unusable(record, candidate.device, reason_of(error), None))
    return opened, failed


def _unusable(record: EngineRecord, device: str | None, reason: str, remedy: str | None) -> Finding:
    return Finding(record.name, record.versions(), device, None, {}, reason, remedy)


def _measured(opened: Sequence[tuple[EngineRecord, Opened]], bundle: Bundle) -> list[Finding]:
    items = [item for _, item in opened]
    rows = {size: measure(bundle, items, size, SECONDS * len(items)) for size in BATCH_SIZES}
    return [
        Finding(
            record.name,
            record.versions(),
            item.engine.device,
            item.relative_difference,
            {size: rows[size][index].milliseconds for size in BATCH_SIZES},
            None,
            None,
        )
        for index, (record, item) in enumerate(opened)
    ]


def _machine() -> dict[str, Any]:
    cache = writable_folder("selection")
    return {
        "ghostzoo": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "os": platform.platform(),
        "cpu": cpu_name(),
        "cpu_features": list(cpu_features()),
        "cpus_usable": usable_cpus(),
        "cpus_of_machine": os.cpu_count(),
        "gpus": find_gpus(),
        "cache": None if cache is None else str(cache.parent),
    }


def _warnings() -> list[str]:
    conflict = installation_conflict()
    return [] if conflict is None else [conflict]

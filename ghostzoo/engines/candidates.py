"""The report of a selection: what was measured, what was discarded and why, and what was chosen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..bundle.folder import COMPUTED, CONVERTED_FILES, Bundle
from ..errors import EngineUnavailableError, GhostZooError
from . import EngineRecord
from .base import EngineOptions
from .devices import is_same_device

Origin = Literal["asked for", "environment", "measured", "cached"]


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


def keep_with_files(records: Iterable[EngineRecord], bundle: Bundle) -> tuple[list[EngineRecord], list[Discarded]]:
    """Keep the engines that read ONNX, and those whose own format the bundle includes."""
    kept, discarded = [], []
    for record in records:
        try:
            bundle.converted_files(record.name)
            kept.append(record)
        except EngineUnavailableError as error:
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
    """Keep the engines that can run ``bundle`` in ``precision``: from a graph that it has, or that they make."""
    kept, discarded = [], []
    for record in records:
        if record.name in CONVERTED_FILES and precision != "fp32":
            discarded.append(Discarded(record.name, None, f"it has fp32 alone, not {precision}."))
        elif precision in (*bundle.precisions, *record.makes):
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

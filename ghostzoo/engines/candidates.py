"""Which engines and devices come into question: pure filters that return what they keep, and the rest with reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..bundle.folder import Bundle
from ..errors import EngineUnavailableError, GhostZooError
from . import EngineRecord
from .base import EngineOptions
from .selection import Discarded


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
            discarded.append(Discarded(record.name, None, f"not installed (install it with: {record.install})."))
    return kept, discarded


def keep_with_files(records: Iterable[EngineRecord], bundle: Bundle) -> tuple[list[EngineRecord], list[Discarded]]:
    """Keep the engines that read ONNX, and those in whose own format the bundle has the network too."""
    kept, discarded = [], []
    for record in records:
        try:
            bundle.converted_files(record.name)
            kept.append(record)
        except EngineUnavailableError as error:
            discarded.append(Discarded(record.name, None, str(error)))
    return kept, discarded


def keep_checked(records: Iterable[EngineRecord]) -> tuple[list[EngineRecord], list[Discarded]]:
    """Keep the engines whose files are checked before the library reads them; the others wait to be named."""
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


def keep_devices(candidates: Iterable[Candidate], options: EngineOptions) -> tuple[list[Candidate], list[Discarded]]:
    """Keep the candidates on devices that the options leave open: the one named, or CPUs where threads are counted."""
    kept, discarded = [], []
    for candidate in candidates:
        device = candidate.device.lower()
        if options.device is not None and device != options.device.lower():
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
    """Why an engine cannot be used: one sentence of ours, or what its library raised, with its kind."""
    if isinstance(error, GhostZooError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"

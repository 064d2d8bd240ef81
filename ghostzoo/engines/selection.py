"""The report of a selection: what was measured, what was discarded and why, and what was chosen."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

Origin = Literal["asked for", "environment", "measured", "cached"]


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
    """False where time was up before all were tried: such a decision is not kept."""

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

    def __str__(self) -> str:
        lines = [f"{self.engine} on {self.device} ({self.origin}): {self.reason}"]
        lines += [row.to_line() for row in self.measured]
        lines += [f"{'-':>10}  {item}" for item in self.discarded]
        return "\n".join(lines)

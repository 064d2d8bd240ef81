"""What a benchmark found, as plain data that goes to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from ..errors import InputError

FORMAT_VERSION = 1
_P95 = 18  # of the 19 cuts into twentieths
_MOST_NOISE = 0.1
"""As a fraction of the median; what differs by less than that is not worth a look."""
_FEWEST_CALLS = 10
_MAX_FILE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Cell:
    """One combination that is measured."""

    model: str
    engine: str
    precision: str
    threads: int
    batch_size: int

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.model} {self.engine} {self.precision}, {threads}, batch {self.batch_size}"


@dataclass(frozen=True)
class Timing:
    """Times of one call."""

    median_ms: float
    p95_ms: float
    noise: float
    """Half of the interquartile range, as a fraction of the median: how far a median may be off for noise alone."""
    calls: int
    """How many were counted."""

    @classmethod
    def of(cls, durations: Sequence[float]) -> Timing:
        """Summarise durations in seconds, at least two of them."""
        middle = median(durations)
        cuts = quantiles(durations, n=20, method="inclusive")
        return cls(1000 * middle, 1000 * cuts[_P95], (cuts[14] - cuts[4]) / 2 / middle, len(durations))


@dataclass(frozen=True)
class Measurement:
    """What was measured for one cell."""

    cell: Cell
    network: Timing
    """A call of the engine with a preprocessed batch."""
    end_to_end: Timing
    """A batch of JPEG files in memory -> decoded, preprocessed, run, and the five best classes of each."""
    load_seconds: float | None
    """In a fresh process: from ``import ghostzoo`` to the end of the first prediction."""
    peak_memory: int | None
    """Bytes of resident memory that this process held at most; ``None`` where the system does not tell."""

    @property
    def noise(self) -> float:
        """That of the noisier of the two."""
        return max(self.network.noise, self.end_to_end.noise)

    @property
    def is_reliable(self) -> bool:
        """Whether there were enough calls, and little noise."""
        return self.noise <= _MOST_NOISE and min(self.network.calls, self.end_to_end.calls) >= _FEWEST_CALLS

    @property
    def images_per_second(self) -> float:
        """End to end."""
        return 1000 * self.cell.batch_size / self.end_to_end.median_ms


@dataclass(frozen=True)
class ModelFacts:
    """What does not depend on the engine."""

    name: str
    top1: float | None
    """Published, or measured when the model was made; ``None`` where nothing is known."""
    file_sizes: dict[str, int]
    """Precision -> bytes of its graph."""
    published_storage_mb: int | None
    published_snapdragon855_ms: dict[str, float]
    """Threads -> milliseconds at batch 1, as PaddleClas publishes them."""
    published_v100_ms: dict[str, float]
    """Batch size -> milliseconds with TensorRT in float32, as PaddleClas publishes them."""


@dataclass(frozen=True)
class Results:
    """A whole run."""

    machine: dict[str, Any]
    models: tuple[ModelFacts, ...]
    measurements: tuple[Measurement, ...]
    left_out: tuple[tuple[str, str], ...]
    """Cells that could not be measured, and why."""

    def find(self, cell: Cell) -> Measurement | None:
        return next((item for item in self.measurements if item.cell == cell), None)

    @property
    def warning(self) -> str | None:
        """Say that the figures mean little, where noise or too few calls make them so."""
        doubtful = [item for item in self.measurements if not item.is_reliable]
        if not doubtful:
            return None
        noise = max(item.noise for item in doubtful)
        why = f"noise of up to {100 * noise:.0f} %" if noise > _MOST_NOISE else f"fewer than {_FEWEST_CALLS} calls"
        return f"{len(doubtful)} of {len(self.measurements)} rows mean little, with {why}."

    def left_out_lines(self) -> list[str]:
        """Say what could not be measured, each reason once."""
        cells: dict[str, list[str]] = {}
        for cell, reason in self.left_out:
            cells.setdefault(reason, []).append(cell)
        return [
            f"Left out: {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {reason}"
            for reason, found in cells.items()
        ]

    def to_json(self) -> bytes:
        return (json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n").encode()

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a file that ``to_json`` wrote.

        Raises:
            InputError: there is none, or it is something else.
        """
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise ValueError(f"it has more than {_MAX_FILE_BYTES} bytes")
            content = json.loads(path.read_bytes())
            if not isinstance(content, dict) or content.pop("format_version", None) != FORMAT_VERSION:
                raise ValueError(f"it is not an object with format_version {FORMAT_VERSION}")
            return cls(
                content["machine"],
                tuple(ModelFacts(**facts) for facts in content["models"]),
                tuple(_measurements(content["measurements"])),
                tuple((cell, reason) for cell, reason in content["left_out"]),
            )
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"{path} holds no results of 'ghostzoo bench --json' ({error}).") from error


def _measurements(rows: Iterable[dict[str, Any]]) -> Iterable[Measurement]:
    for row in rows:
        yield Measurement(
            Cell(**row["cell"]),
            Timing(**row["network"]),
            Timing(**row["end_to_end"]),
            row["load_seconds"],
            row["peak_memory"],
        )

"""Two runs side by side."""

from __future__ import annotations

from .results import Results, Timing
from .tables import Table

_LEAST_NOISE = 0.02
"""Two runs of the same on a quiet machine differ by as much."""


def compare(new: Results, old: Results) -> list[Table]:
    """Return a table for each model, with a row for each cell that both runs have.

    A difference within the noise of both is called none.
    """
    rows: dict[str, list[tuple[str, ...]]] = {}
    for item in new.measurements:
        before = old.find(item.cell)
        if before is None:
            continue
        cell = item.cell
        rows.setdefault(cell.model, []).append(
            (
                cell.engine,
                cell.precision,
                str(cell.threads),
                str(cell.batch_size),
                _change(item.network, before.network),
                _change(item.end_to_end, before.end_to_end),
            )
        )
    columns = ("engine", "precision", "threads", "batch", "network new/old", "end to end new/old")
    machine = old.machine.get("processor", "another machine")
    return [
        Table(f"{model} against the earlier run on {machine}", columns, tuple(found)) for model, found in rows.items()
    ]


def _change(new: Timing, old: Timing) -> str:
    ratio = new.median_ms / old.median_ms
    if abs(ratio - 1) <= max(_LEAST_NOISE, new.noise + old.noise):
        word = "no difference"
    else:
        word = "faster" if ratio < 1 else "slower"
    return f"{ratio:.3f} {word}"

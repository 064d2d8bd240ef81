"""Two runs side by side."""

from __future__ import annotations

from .results import Results, Timing
from .tables import Table

_LEAST_NOISE = 0.02
"""Two runs of the same on a quiet machine differ by as much."""


def compare(new: Results, old: Results) -> Table:
    """Return a row for each cell that both runs have; a difference within the noise of both is called none."""
    rows = []
    for item in new.measurements:
        before = old.find(item.cell)
        if before is None:
            continue
        cell = item.cell
        rows.append(
            (
                cell.model,
                cell.engine,
                cell.precision,
                str(cell.threads),
                str(cell.batch_size),
                *_change(item.network, before.network),
                *_change(item.end_to_end, before.end_to_end),
            )
        )
    columns = ("model", "engine", "precision", "threads", "batch", "network new/old", "", "end to end new/old", "")
    return Table(f"Against {old.machine.get('processor', 'another machine')}", columns, tuple(rows))


def _change(new: Timing, old: Timing) -> tuple[str, str]:
    ratio = new.median_ms / old.median_ms
    if abs(ratio - 1) <= max(_LEAST_NOISE, new.noise + old.noise):
        word = "no difference"
    else:
        word = "faster" if ratio < 1 else "slower"
    return f"{ratio:.3f}", word

"""Trying candidates: each is opened, held against the golden vectors, and measured in turn with the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..bundle.folder import Bundle
from ..errors import EngineUnavailableError
from ..parity import engine_tolerance
from ..timing import median_ms, time_in_turn
from . import engine_class
from .base import Engine, EngineOptions
from .candidates import Candidate
from .selection import Measured


@dataclass(frozen=True)
class Opened:
    """A candidate that gave the right answers."""

    engine: Engine
    relative_difference: float
    """From the golden logits, as a fraction of their scale."""


def open_checked(bundle: Bundle, candidate: Candidate, options: EngineOptions) -> Opened:
    """Open ``bundle`` with the candidate and hold its answers against the golden vectors.

    Raises:
        EngineUnavailableError: its answers are wrong, or opening it would take too long.
        GhostZooError: it cannot be opened with these options.
    """
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
    return Opened(engine, agreement.relative)


def measure(bundle: Bundle, opened: Sequence[Opened], batch_size: int, seconds: float) -> list[Measured]:
    """Time calls with ``batch_size`` images for about ``seconds`` in all; return a row for each, in the same order."""
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

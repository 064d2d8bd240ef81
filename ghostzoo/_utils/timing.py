"""Timing that can be compared: all candidates in turn, round after round, so that noise meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

MIN_ROUNDS = 3
"""Fewer rounds than this have no meaningful median."""


def time_in_turn(calls: Mapping[Key, Callable[[], object]], seconds: float) -> dict[Key, list[float]]:
    """Call each of ``calls`` once a round, for about ``seconds`` in all but at least ``MIN_ROUNDS`` rounds.

    The first call of each is a warm-up and not counted.

    Returns:
        Key -> the duration of each counted call, in seconds.
    """
    for call in calls.values():
        call()
    durations: dict[Key, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    rounds = 0
    while calls and (rounds < MIN_ROUNDS or time.perf_counter() < end):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            durations[name].append(time.perf_counter() - start)
        rounds += 1
    return durations


def median_ms(durations: list[float]) -> float:
    """Median in milliseconds of durations in seconds."""
    from statistics import median  # not before something is timed

    return 1000 * median(durations)

from __future__ import annotations

import time

from ghostzoo._utils.timing import MIN_ROUNDS, median_ms, time_in_turn


def test_each_call_is_timed_in_turn_after_a_warm_up() -> None:
    seen: list[str] = []
    durations = time_in_turn({"quick": lambda: seen.append("quick"), "slow": lambda: time.sleep(0.05)}, 0)
    assert seen == ["quick"] * (1 + MIN_ROUNDS)
    assert {name: len(found) for name, found in durations.items()} == {"quick": MIN_ROUNDS, "slow": MIN_ROUNDS}
    assert min(durations["slow"]) >= 0.05
    assert median_ms([0.001, 0.002, 0.9]) == 2

"""The simulation by which servers are counted: what queueing theory knows, and the server's own rule of batching."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulation import Costs, Simulation


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_of_fixed_time_waits_as_in_theory(load: float) -> None:
    seconds = 0.01
    simulation = Simulation(Costs(0.0, (seconds,), 0.0), cpus=1, workers=1, max_batch=1, max_delay=0)
    latencies = simulation.run(2000, rate=load / seconds)
    assert np.mean(latencies) == pytest.approx(seconds + load * seconds / (2 * (1 - load)), rel=0.05)  # M/D/1


def test_a_full_server_gives_what_its_cpus_allow() -> None:
    costs = Costs(decode=0.002, network=(0.003, 0.005, 0.007, 0.009), request=0.001)
    for cpus in (1, 2):
        simulation = Simulation(costs, cpus, workers=cpus + 1, max_batch=4)
        latencies = simulation.run(60, clients=64)
        assert len(simulation.answered) / simulation.now == pytest.approx(cpus / costs.image, rel=0.1)
        assert np.mean(latencies) == pytest.approx(64 * costs.image / cpus, rel=0.1)  # Little's law
        assert np.mean(simulation.batches) > 2
    alone = Simulation(costs, 2, workers=3, max_batch=4)
    assert set(np.round(alone.run(10, clients=1), 6)) == {0.006}

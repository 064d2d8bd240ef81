"""When a batch is due, how large it is, and whose turn it is."""

from __future__ import annotations

import math
import threading
import time

import pytest

from ghostzoo.serve.queueing import Call, InstanceQueue, Job
from ghostzoo.serve.scheduler import Scheduler
from tests.serve.test_scheduler import GatedLane, pixels, submit


def queue_of(ready: int, encoded: int = 0, decoding: int = 0, side_by_side: bool = True) -> InstanceQueue:
    """A queue whose images came at 100, 101, ...; a batch has at most four and waits for 2 s."""
    lane = GatedLane()
    lane.side_by_side = side_by_side
    call = Call([], lambda: None, 0, math.inf)
    queue = InstanceQueue(lane, max_batch=4, max_delay=2.0, decoding=decoding)
    queue.ready.extend(Job(call, place, pixels(place), 100.0 + place) for place in range(ready))
    queue.encoded.extend(Job(call, place, b"1", 100.0) for place in range(encoded))
    return queue


@pytest.mark.parametrize(
    ("ready", "encoded", "decoding", "due"),
    [
        (0, 0, 0, math.inf),
        (0, 3, 1, math.inf),
        (1, 0, 0, 0.0),  # nothing is on its way that could join
        (3, 1, 0, 102.0),  # waits for others, from when the first came
        (3, 0, 1, 102.0),
        (4, 1, 1, 0.0),  # full
        (5, 1, 1, 0.0),
    ],
)
def test_a_batch_is_due(ready: int, encoded: int, decoding: int, due: float) -> None:
    assert queue_of(ready, encoded, decoding).due == due


@pytest.mark.parametrize(
    ("side_by_side", "ready", "others", "coming", "size"),
    [
        (False, 3, 3, 5, 3),
        (False, 9, 0, 0, 4),
        (True, 4, 0, 0, 4),
        (True, 4, 1, 0, 2),
        (True, 3, 1, 0, 2),
        (True, 4, 3, 4, 2),
        (True, 1, 5, 0, 1),
        (True, 9, 0, 0, 4),
    ],
)
def test_a_worker_takes_its_share(side_by_side: bool, ready: int, others: int, coming: int, size: int) -> None:
    queue = queue_of(ready, side_by_side=side_by_side)
    taken = queue.take_batch(others, coming)
    assert [job.place for job in taken] == list(range(size))  # the oldest first
    assert (len(queue.ready), queue.running) == (ready - size, 1)


@pytest.mark.parametrize("field", ["encoded", "ready", "decoding", "running"])
def test_a_queue_is_busy_with_any_of_them(field: str) -> None:
    queue = queue_of(0)
    assert not queue.busy
    value = getattr(queue, field)
    if isinstance(value, int):
        setattr(queue, field, 1)
    else:
        value.append(queue_of(1).ready[0])
    assert queue.busy


@pytest.mark.parametrize("encoded", [False, True], ids=["pixels", "images"])
def test_who_waits_longest_is_served_first(encoded: bool) -> None:
    """With one worker busy, calls of three models queue up; their order is that in which they came."""
    lanes = [GatedLane(f"model-{index}") for index in range(4)]
    order: list[str] = []
    for lane in lanes[1:]:
        lane.gate.set()
        lane.run = lambda batch, *, alone, name=lane.model: (order.append(name), batch)[1]  # type: ignore[method-assign]
    scheduler = Scheduler(workers=1, max_batch=4, max_delay=0.0, queue_size=10)
    try:
        done: list[threading.Event] = []
        # The first call to each gives the queues another order than that of the calls to come.
        for lane in lanes[1:]:
            assert submit(scheduler, lane, [pixels(0)])[1].wait(20)
        order.clear()
        done.append(submit(scheduler, lanes[0], [pixels(0)])[1])
        assert lanes[0].started.wait(20)
        for lane in (lanes[3], lanes[1], lanes[2]):
            done.append(submit(scheduler, lane, [b"1" if encoded else pixels(1)])[1])
            time.sleep(0.002)
        lanes[0].gate.set()
        assert all(event.wait(20) for event in done)
    finally:
        lanes[0].gate.set()
        scheduler.close()
    assert order == ["model-3", "model-1", "model-2"]


def test_a_free_worker_takes_early_what_waits_longest() -> None:
    """Two models wait for images that are being decoded; the worker that is free does not."""
    lanes = [GatedLane(f"model-{index}") for index in range(3)]
    order: list[str] = []
    decoding = {lane.model: threading.Event() for lane in lanes}
    decoded = threading.Event()
    for lane in lanes[1:]:
        lane.run = lambda batch, *, alone, name=lane.model: (order.append(name), batch)[1]  # type: ignore[method-assign]
        lane.decode = lambda source, *, name=lane.model: (  # type: ignore[method-assign]
            decoding[name].set(),
            decoded.wait(20),
            pixels(0),
        )[2]
    scheduler = Scheduler(workers=3, max_batch=4, max_delay=60.0, queue_size=10)
    try:
        submit(scheduler, lanes[0], [pixels(0)])
        assert lanes[0].started.wait(20)
        for lane in (lanes[1], lanes[2]):
            submit(scheduler, lane, [b"1"])
            assert decoding[lane.model].wait(20)
        calls = []
        for lane in (lanes[2], lanes[1]):  # all three workers are busy
            calls.append(submit(scheduler, lane, [pixels(1)]))
            time.sleep(0.002)
        lanes[0].gate.set()
        assert all(done.wait(20) for _, done in calls)
    finally:
        decoded.set()
        lanes[0].gate.set()
        scheduler.close()
    assert order[:2] == ["model-2", "model-1"]

"""Batches, queue, cancellation and shutdown, with instances whose speed the test controls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ghostzoo.errors import EngineError, ImageError
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.serve.queueing import Answer, Call, Source
from ghostzoo.serve.request_errors import RequestError
from ghostzoo.serve.scheduler import Scheduler


class GatedLane:
    """A network that doubles its input, once the gate is open."""

    def __init__(self, name: str = "model") -> None:
        self.model, self.engine, self.side_by_side = name, "test", True
        self.preprocessing = Preprocessing()
        self.gate = threading.Event()
        self.started = threading.Event()
        self.batches: list[list[float]] = []
        self.alone: list[bool] = []

    def decode(self, source: bytes) -> NDArray[np.float32]:
        if source == b"bad":
            raise ImageError("x", "it is bad")
        return np.array([float(source)], np.float32)

    def run(self, batch: NDArray[np.float32], *, alone: bool) -> NDArray[np.float32]:
        self.alone.append(alone)
        self.started.set()
        assert self.gate.wait(20)
        self.batches.append(batch[:, 0].tolist())
        if -1.0 in batch:
            raise EngineError("the engine failed")
        return batch * 2


@pytest.fixture
def instance() -> GatedLane:
    return GatedLane()


@pytest.fixture
def make(instance: GatedLane) -> Iterator[Callable[..., Scheduler]]:
    made = []

    def scheduler(**options: Any) -> Scheduler:
        made.append(Scheduler(**({"workers": 1, "max_batch": 4, "max_delay": 0.0, "queue_size": 10} | options)))
        return made[-1]

    yield scheduler
    instance.gate.set()
    for each in made:
        each.close()


def submit(scheduler: Scheduler, instance: GatedLane, sources: Sequence[Source]) -> tuple[Call, threading.Event]:
    done = threading.Event()
    return scheduler.submit(instance, sources, done.set), done


def pixels(value: float) -> NDArray[np.float32]:
    return np.array([value], np.float32)


def refuses(scheduler: Scheduler, instance: GatedLane) -> bool:
    try:
        submit(scheduler, instance, [])
    except RequestError as error:
        return error.status == 503
    return False


def values(call: Call) -> list[Any]:
    return [outcome.logits.tolist() if isinstance(outcome, Answer) else str(outcome) for outcome in call.outcomes]


def test_requests_that_wait_share_a_batch(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    scheduler = make()
    submit(scheduler, instance, [pixels(0)])
    assert instance.started.wait(20)
    calls = [submit(scheduler, instance, [pixels(value)]) for value in range(1, 7)]
    instance.gate.set()
    for value, (call, done) in enumerate(calls, start=1):
        assert done.wait(20)
        assert values(call) == [[2.0 * value]]
    assert instance.batches == [[0.0], [1.0, 2.0, 3.0, 4.0], [5.0, 6.0]]
    first, _ = calls[0]
    assert isinstance(first.outcomes[0], Answer)
    assert first.outcomes[0].stages.batch_size == 4


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_workers_share_what_is_ready_and_none_waits_for_more(
    make: Callable[..., Scheduler], instance: GatedLane
) -> None:
    scheduler = make(workers=2, max_delay=60.0)
    wait_until(lambda: scheduler.idle == 2)
    call, done = submit(scheduler, instance, [pixels(value) for value in range(4)])
    wait_until(lambda: len(instance.alone) == 2)
    instance.gate.set()
    assert done.wait(20)
    assert values(call) == [[0.0], [2.0], [4.0], [6.0]]
    assert sorted(instance.batches) == [[0.0, 1.0], [2.0, 3.0]]


def test_an_image_that_is_alone_may_take_all_cpus(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    scheduler = make(workers=2)
    wait_until(lambda: scheduler.idle == 2)
    submit(scheduler, instance, [pixels(0)])
    assert instance.started.wait(20)
    _, done = submit(scheduler, instance, [pixels(1)])
    wait_until(lambda: len(instance.alone) == 2)  # while the first still runs
    instance.gate.set()
    assert done.wait(20)
    assert instance.alone == [True, False]


def test_other_devices_take_full_batches(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    instance.side_by_side = False
    instance.gate.set()
    scheduler = make(workers=3, max_delay=60.0)
    call, done = submit(scheduler, instance, [b"1", b"2", b"3", b"4", b"5", b"6"])
    assert done.wait(20)
    assert sorted(map(len, instance.batches)) == [2, 4]
    assert values(call) == [[2.0], [4.0], [6.0], [8.0], [10.0], [12.0]]


def test_each_image_has_its_own_outcome(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    instance.gate.set()
    call, done = submit(make(workers=3), instance, [b"1", b"bad", pixels(3), ImageError("y", "not there"), b"5"])
    assert done.wait(20)
    assert values(call) == [[2.0], "x: it is bad", [6.0], "y: not there", [10.0]]
    call, done = submit(make(), instance, [ImageError("y", "not there")])
    assert done.wait(20)
    assert values(call) == ["y: not there"]


def test_a_failing_batch_harms_no_other(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    scheduler = make(max_batch=1)
    bad, bad_done = submit(scheduler, instance, [pixels(-1)])
    good, good_done = submit(scheduler, instance, [pixels(1)])
    instance.gate.set()
    assert bad_done.wait(20)
    assert good_done.wait(20)
    assert (values(bad), values(good)) == (["the engine failed"], [[2.0]])


def test_errors_that_are_not_ours_are_logged(
    make: Callable[..., Scheduler], instance: GatedLane, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler, strange = make(), GatedLane("strange")
    strange.run = lambda *_, **__: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    instance.gate.set()
    for lane, source in ((instance, pixels(-1)), (instance, b"bad"), (strange, pixels(1))):
        call, done = submit(scheduler, lane, [source])
        assert done.wait(20)
        (outcome,) = call.outcomes
        assert isinstance(outcome, Exception)
        assert outcome.__traceback__ is None  # it would keep the image
    (record,) = caplog.records
    assert record.getMessage() == "A worker failed."
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_the_queue_is_bounded_and_calls_are_whole(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    scheduler = make(queue_size=3)
    submit(scheduler, instance, [pixels(0)])
    assert instance.started.wait(20)
    kept, done = submit(scheduler, instance, [pixels(1), pixels(2)])
    with pytest.raises(RequestError) as caught:
        submit(scheduler, instance, [pixels(3), pixels(4)])
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    assert scheduler.waiting == 2
    submit(scheduler, instance, [pixels(5)])
    instance.gate.set()
    assert done.wait(20)
    assert values(kept) == [[2.0], [4.0]]


def test_what_is_cancelled_is_not_computed(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    scheduler = make(queue_size=2)
    submit(scheduler, instance, [pixels(0)])
    assert instance.started.wait(20)
    call, done = submit(scheduler, instance, [pixels(1), pixels(2)])
    scheduler.cancel(call)
    assert scheduler.waiting == 0
    other, other_done = submit(scheduler, instance, [pixels(3), pixels(4)])
    instance.gate.set()
    assert other_done.wait(20)
    assert values(other) == [[6.0], [8.0]]
    assert not done.is_set()
    assert instance.batches == [[0.0], [3.0, 4.0]]


def test_models_do_not_share_batches(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    scheduler, other = make(), GatedLane("other")
    submit(scheduler, instance, [pixels(0)])
    assert instance.started.wait(20)
    calls = [
        submit(scheduler, each, [pixels(value)])
        for value, each in enumerate((instance, other, instance, other), start=1)
    ]
    instance.gate.set()
    other.gate.set()
    assert all(done.wait(20) for _, done in calls)
    assert (instance.batches, other.batches) == ([[0.0], [1.0, 3.0]], [[2.0, 4.0]])


def test_closing_finishes_what_was_taken(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    scheduler = make()
    calls = [submit(scheduler, instance, [b"1", b"2", b"3"]) for _ in range(3)]
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    end = time.monotonic() + 20
    while not refuses(scheduler, instance):  # as soon as the other thread has begun
        assert time.monotonic() < end
    instance.gate.set()
    closing.join(20)
    assert not closing.is_alive()
    assert all(done.is_set() and values(call) == [[2.0], [4.0], [6.0]] for call, done in calls)


def test_retiring_waits_for_a_model_alone(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    scheduler, other = make(workers=2), GatedLane("other")
    call, done = submit(scheduler, instance, [pixels(1), b"2"])
    submit(scheduler, other, [pixels(1)])
    retired = threading.Event()
    threading.Thread(target=lambda: (scheduler.retire(instance), retired.set()), daemon=True).start()
    assert not retired.wait(0.05)
    instance.gate.set()
    assert retired.wait(20)
    assert done.wait(20)
    assert values(call) == [[2.0], [4.0]]
    assert not other.batches
    other.gate.set()


def test_retiring_waits_for_no_call_that_was_cancelled(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    """Though the only worker is busy with another model, and will be."""
    scheduler, other = make(), GatedLane("other")
    submit(scheduler, other, [pixels(1)])
    assert other.started.wait(20)
    call, _ = submit(scheduler, instance, [pixels(1), b"2"])
    retired = threading.Event()
    threading.Thread(target=lambda: (scheduler.retire(instance), retired.set()), daemon=True).start()
    wait_until(lambda: refuses(scheduler, instance))
    assert not retired.is_set()
    scheduler.cancel(call)
    assert retired.wait(20)
    assert not other.batches
    other.gate.set()


def test_what_workers_hang_in_is_told_in_words(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    scheduler, decoding = make(workers=2), threading.Event()
    wait_until(lambda: scheduler.idle == 2)
    assert (scheduler.in_hand, scheduler.stuck_for) == ([], 0.0)
    submit(scheduler, instance, [pixels(0)])
    assert instance.started.wait(20)
    assert scheduler.stuck_for == 0.0  # the other worker takes what comes
    slow = GatedLane("slow")
    slow.decode = lambda *_: (decoding.wait(20), pixels(0))[1]  # type: ignore[method-assign]
    submit(scheduler, slow, [b"1"])
    wait_until(lambda: scheduler.stuck_for > 0.1)
    running, reading = sorted(scheduler.in_hand, reverse=True)
    assert running.startswith("running 1 image(s) for model on test for 0.")
    assert reading.startswith("decoding 1 image(s) for slow on test for 0.")
    decoding.set()
    for lane in (instance, slow):
        lane.gate.set()
    wait_until(lambda: scheduler.idle == 2)
    assert (scheduler.in_hand, scheduler.stuck_for) == ([], 0.0)


@pytest.mark.parametrize("side_by_side", [True, False])
def test_closing_ends_workers_that_had_nothing_to_do(
    make: Callable[..., Scheduler], instance: GatedLane, side_by_side: bool
) -> None:
    """Some wait for nothing, and some for an image that could join theirs, and is cancelled."""
    scheduler, other, decoding = make(workers=4, max_delay=60.0), GatedLane("other"), threading.Event()
    other.side_by_side = side_by_side
    other.decode = lambda *_: (decoding.wait(20), pixels(0))[1]  # type: ignore[method-assign]
    submit(scheduler, instance, [pixels(0)])
    call, _ = submit(scheduler, other, [b"1"])
    joined, done = submit(scheduler, other, [pixels(2)])
    wait_until(lambda: any("decoding" in each for each in scheduler.in_hand))
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    wait_until(lambda: refuses(scheduler, instance))
    scheduler.cancel(call)
    for event in (decoding, instance.gate, other.gate):
        event.set()
    closing.join(20)
    assert not closing.is_alive()
    assert done.is_set()
    assert values(joined) == [[4.0]]


def test_closing_tells_whether_all_has_ended(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    scheduler = make()
    _, done = submit(scheduler, instance, [pixels(0)])
    assert instance.started.wait(20)
    assert not scheduler.close(0.01)
    assert refuses(scheduler, instance)
    instance.gate.set()
    assert scheduler.close(20)
    assert done.is_set()


def test_who_decodes_elsewhere_asks_for_work(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    scheduler = make(decodes=False)
    instance.gate.set()
    call, done = submit(scheduler, instance, [b"1", b"bad", b"3"])
    taken = [scheduler.take_encoded() for _ in range(4)]
    assert taken.pop() is None
    jobs = [job for job in taken if job is not None]
    assert [job.source for _, job in jobs] == [b"1", b"bad", b"3"]
    assert scheduler.waiting == 0
    for (queue, job), outcome in zip(jobs, (pixels(1), ImageError("x", "it is bad"), pixels(3)), strict=True):
        scheduler.on_decoded(queue, job, outcome)  # type: ignore[arg-type]  # the lane takes any numbers
    assert done.wait(20)
    assert values(call) == [[2.0], "x: it is bad", [6.0]]


def test_a_batch_fills_up_while_no_cpu_is_idle(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    """Two processes decode beside two workers, as on one CPU and more."""
    scheduler = make(workers=2, max_delay=60.0, decodes=False)
    wait_until(lambda: scheduler.idle == 2)
    instance.gate.set()
    _, done = submit(scheduler, instance, [b"1", b"2", b"3"])
    taken = [each for _ in range(3) if (each := scheduler.take_encoded()) is not None]
    for queue, job in taken[:2]:
        scheduler.on_decoded(queue, job, pixels(1))  # type: ignore[arg-type]
    assert not done.wait(0.1)
    assert instance.batches == []
    scheduler.on_decoded(*taken[2], pixels(3))  # type: ignore[arg-type]  # nothing is on its way any more
    assert done.wait(20)
    assert sorted(map(len, instance.batches)) in ([1, 2], [3])


def test_no_batch_waits_for_an_image_that_was_cancelled(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    scheduler, other = make(max_delay=60.0, decodes=False), GatedLane("other")
    wait_until(lambda: scheduler.idle == 1)
    for lane in (instance, other):
        lane.gate.set()
    submit(scheduler, other, [b"1"])
    in_hand = scheduler.take_encoded()  # what the only CPU is busy with
    assert in_hand is not None
    _, done = submit(scheduler, instance, [b"2"])
    taken = scheduler.take_encoded()
    assert taken is not None
    waiting, _ = submit(scheduler, instance, [b"3"])
    scheduler.on_decoded(*taken, pixels(2))  # type: ignore[arg-type]
    assert not done.wait(0.1)
    scheduler.cancel(waiting)
    assert done.wait(20)
    assert instance.batches == [[2.0]]
    scheduler.on_decoded(*in_hand, pixels(1))  # type: ignore[arg-type]


def test_what_is_ready_is_taken_when_a_cpu_falls_idle(make: Callable[..., Scheduler], instance: GatedLane) -> None:
    """Because an image has been decoded, or because one for another model could not be."""
    scheduler, other = make(workers=3, max_delay=60.0, decodes=False), GatedLane("other")
    wait_until(lambda: scheduler.idle == 3)
    instance.gate.set()
    submit(scheduler, instance, [b"1", b"2"])
    submit(scheduler, other, [b"3"])
    (first, second, third) = (scheduler.take_encoded() for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    scheduler.on_decoded(*first, pixels(1))  # type: ignore[arg-type]
    assert instance.batches == []
    scheduler.on_decoded(*third, ImageError("x", "it is bad"))
    wait_until(lambda: instance.batches == [[1.0]])
    scheduler.on_decoded(*second, pixels(2))  # type: ignore[arg-type]
    wait_until(lambda: instance.batches == [[1.0], [2.0]])

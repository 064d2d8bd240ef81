from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from ghostzoo._utils.parallel import map_batches


def double(batch: Iterable[int]) -> list[int]:
    return [2 * item for item in batch]


def workers_alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ghostzoo_")]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 29])
def test_batches_come_in_order_and_none_is_lost(workers: int, count: int) -> None:
    def slow_at_first(batch: Iterable[int]) -> list[int]:
        items = list(batch)
        time.sleep(0.02 if items[0] == 0 else 0)
        return items

    batches = list(map_batches(slow_at_first, iter(range(count)), 3, workers))
    assert [item for batch in batches for item in batch] == list(range(count))
    assert all(len(batch) == 3 for batch in batches[:-1])


def test_one_worker_takes_an_item_when_it_is_asked_for() -> None:
    seen: list[str] = []

    def source() -> Iterator[int]:
        for item in range(4):
            seen.append(f"taken {item}")
            yield item

    def work(batch: Iterable[int]) -> None:
        for item in batch:
            seen.append(f"done {item}")

    assert list(map_batches(work, source(), 2, 1)) == [None, None]
    assert seen == [f"{what} {item}" for item in range(4) for what in ("taken", "done")]


def test_several_workers_work_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=60)

    def work(batch: Iterable[int]) -> int:
        meeting.wait()
        return len(list(batch))

    assert list(map_batches(work, range(6), 2, 3)) == [2, 2, 2]


def test_only_a_few_batches_are_taken_ahead() -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for item in range(1000):
            taken += 1
            yield item

    results = map_batches(double, source(), 4, 2)
    for done in range(1, 20):
        next(results)
        assert taken <= 4 * (done + 4)
    results.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_what_work_raises_comes_after_the_results_before_it(workers: int) -> None:
    def work(batch: Iterable[int]) -> int:
        first, *_ = batch
        if first == 4:
            raise LookupError("four")
        return first

    results = map_batches(work, range(20), 2, workers)
    assert [next(results), next(results)] == [0, 2]
    with pytest.raises(LookupError, match="four"):
        next(results)
    assert list(results) == []
    assert workers_alive() == []


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("fails_at", [0, 4, 5])
def test_what_the_items_raise_is_found_in_its_place(workers: int, fails_at: int) -> None:
    def source() -> Iterator[int]:
        yield from range(fails_at)
        raise LookupError("source")

    def work(batch: Iterable[int]) -> list[int | str]:
        found: list[int | str] = []
        try:
            found.extend(batch)
        except LookupError as error:
            found.append(str(error))
        return found

    batches = list(map_batches(work, source(), 2, workers))
    assert [item for batch in batches for item in batch] == [*range(fails_at), "source"]


def test_closing_begins_no_batch_that_waits() -> None:
    begun: list[int] = []
    blocked = threading.Event()

    def work(batch: Iterable[int]) -> None:
        begun.append(1)
        if len(begun) > 1:
            blocked.wait(20)

    results = map_batches(work, range(100), 1, 2)
    next(results)
    end = time.monotonic() + 20
    while len(begun) < 3:  # both workers are busy; a further batch waits
        assert time.monotonic() < end
    threading.Timer(1, blocked.set).start()  # by then it is closing
    results.close()
    assert len(begun) == 3


def test_closing_stops_within_a_batch_and_leaves_no_thread() -> None:
    done: list[int] = []

    def work(batch: Iterable[int]) -> int:
        for item in batch:
            done.append(item)
            time.sleep(0.01)
        return 0

    results = map_batches(work, range(10_000), 100, 2)
    next(results)
    before = len(done)
    results.close()
    assert len(done) < before + 80  # of more than 100 in the batches that were begun
    assert workers_alive() == []

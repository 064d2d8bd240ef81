from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from ghostzoo.engines.pool import Pool


class Item:
    """Notices when two callers have it at once, and when it is lent after it was dropped."""

    def __init__(self) -> None:
        self.lent = self.dropped = False

    def drop(self) -> None:
        assert not self.dropped
        self.dropped = True


def test_nothing_is_lent_twice_at_once() -> None:
    made: list[Item] = []

    def make() -> Item:
        made.append(Item())
        return made[-1]

    pool = Pool(make, Item.drop)
    barrier = Barrier(4)

    def use(_: int) -> None:
        barrier.wait(60)
        for _ in range(500):
            with pool.lend() as item:
                assert not item.lent
                assert not item.dropped
                item.lent = True
                item.lent = False

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(4)))
    pool.close()
    assert made
    assert all(item.dropped for item in made)


def test_what_failed_is_not_lent_again() -> None:
    pool = Pool(Item, Item.drop)
    with pytest.raises(ValueError, match="broken"), pool.lend() as item:
        raise ValueError("broken")
    assert item.dropped
    with pool.lend() as other:
        assert other is not item


def test_a_worker_lent_while_the_pool_closes_is_dropped() -> None:
    pool = Pool(Item, Item.drop)
    with pool.lend() as item:
        pool.close()
        assert not item.dropped
    assert item.dropped

"""The budget of bytes, and who may take of it when."""

from __future__ import annotations

import asyncio

import pytest

from ghostzoo.serve.memory import Admission, Memory
from ghostzoo.serve.request_errors import RequestError


def test_a_budget_is_held_and_given_back() -> None:
    rejected: list[int] = []
    memory = Memory(100, lambda: rejected.append(memory.used))
    with memory.held(60) as hold:
        hold(40)
        hold(-10)
        assert (memory.used, memory.fits(10), memory.fits(11)) == (90, True, False)
        with pytest.raises(RequestError) as caught, memory.held(11):
            pytest.fail("there was no room for it")
        assert (caught.value.status, caught.value.retry_after) == (503, 1)
        assert memory.used == 90
        with memory.counted(50):  # what is there already is counted, and nobody refused for it
            assert memory.used == 140
            hold(-20)
            with memory.held():  # as every call begins, even a probe
                pass
            with pytest.raises(RequestError), memory.held(1):
                pytest.fail("there was no room for it")
    assert memory.used == 0
    with pytest.raises(RequestError) as caught, memory.held() as hold:
        hold(101)  # alone, and no later time would be better
    assert caught.value.status == 413
    with memory.counted(1), pytest.raises(RequestError) as caught, memory.held(100):
        pytest.fail("there was no room for it")
    assert caught.value.status == 503  # later there may be
    assert (memory.used, rejected) == (0, [101, 121, 101, 101])


def test_turns_are_had_at_once_while_there_is_memory() -> None:
    memory = Memory(100, lambda: None)
    turns = Admission(lambda others: memory.fits((others + 1) * 50), patience=600)

    async def run() -> None:
        now = asyncio.get_running_loop().time
        async with turns.turn(now() + 600), turns.turn(now() + 600):
            with pytest.raises(TimeoutError):
                async with turns.turn(now() + 0.01):
                    pytest.fail("three had room for two")

    asyncio.run(run())


def test_turns_are_lost_by_nobody() -> None:
    """One at a time: in order, after waiters that gave up, and after a turn that took too long."""

    async def run() -> list[str]:
        loop = asyncio.get_running_loop()
        turns = Admission(lambda _: False, patience=0.2)
        seen: list[str] = []

        async def take(name: str, deadline: float, seconds: float) -> None:
            try:
                async with turns.turn(loop.time() + deadline):
                    seen.append(name)
                    await asyncio.sleep(seconds)
            except TimeoutError:
                seen.append(f"{name} late")

        slow = asyncio.create_task(take("slow", 600, 600))
        await asyncio.sleep(0)
        second = asyncio.create_task(take("cancelled", 600, 600))
        third = asyncio.create_task(take("third", 600, 0))
        impatient = asyncio.create_task(take("impatient", 0.01, 600))
        last = asyncio.create_task(take("last", 600, 0))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([slow, second, third, impatient, last])
        await take("after", 600, 0)
        return seen

    assert asyncio.run(asyncio.wait_for(run(), 60)) == ["slow", "impatient late", "slow late", "third", "last", "after"]

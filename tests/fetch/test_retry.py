"""For how long a server that asks for patience is waited for."""

from __future__ import annotations

import pytest

from ghostzoo.fetch import retry as module
from ghostzoo.fetch.retry import TransientError, retry


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(module.time, "sleep", found.append)
    return found


def busy(after: float | None) -> None:
    raise TransientError("it is busy", after)


@pytest.mark.parametrize(("asked", "waited"), [(0.0, 0.1), (0.05, 0.1), (0.2, 0.2), (7.0, 7.0), (120.0, 120.0)])
def test_what_the_server_asks_for_is_waited(waits: list[float], asked: float, waited: float) -> None:
    with pytest.raises(TransientError, match="it is busy, 3 times in a row"):
        retry(lambda: busy(asked), "title", attempts=3)
    assert waits == [waited, waited]


def test_more_than_two_minutes_are_not_waited(waits: list[float]) -> None:
    with pytest.raises(TransientError, match="asks to wait 121 s; try again then") as error:
        retry(lambda: busy(121.0), "title")
    assert (waits, error.value.retry_after) == ([], 121.0)


def test_waits_grow_and_differ(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.5)
    with pytest.raises(TransientError, match="5 times in a row"):
        retry(lambda: busy(None), "title", attempts=5)
    assert len(waits) == 4
    for number, wait in enumerate(waits):
        assert 0.75 * 0.5 * 2**number <= wait <= 1.25 * 0.5 * 2**number


def test_what_succeeds_is_returned_at_once(waits: list[float]) -> None:
    left = [TransientError("once"), TransientError("twice")]

    def attempt() -> str:
        if left:
            raise left.pop()
        return "done"

    assert retry(attempt, "title") == "done"
    assert len(waits) == 2

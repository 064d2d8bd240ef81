"""Retries after transient failures, waiting as long as the server asks."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 5
FIRST_WAIT = 0.5
"""Seconds; each further wait doubles, with random jitter, so that many clients do not retry at once."""
LONGEST_WAIT = 120.0
"""Seconds; if a server asks for more, there is no retry."""
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

_log = logging.getLogger("ghostzoo")
_T = TypeVar("_T")


class TransientError(Exception):
    """A failure that may not occur again."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        """Seconds to wait, as the server asks."""


def retry(attempt: Callable[[], _T], title: str, attempts: int | None = None) -> _T:
    """Return what ``attempt`` returns, retrying while it raises ``TransientError``.

    Raises:
        TransientError: the last one, or one whose server asks for too long a wait.
    """
    attempts = attempts or ATTEMPTS
    for number in range(1, attempts + 1):
        try:
            return attempt()
        except TransientError as error:
            wait = FIRST_WAIT * 2 ** (number - 1) * random.uniform(0.75, 1.25)  # noqa: S311 -- no secret
            if error.retry_after is not None:
                wait = max(error.retry_after, 0.1)
            if wait > LONGEST_WAIT:
                reason = f"{error}, and asks to wait {wait:.0f} s; try again then"
                raise TransientError(reason, error.retry_after) from error
            if number == attempts:
                raise TransientError(f"{error}, {attempts} times in a row", error.retry_after) from error
            _log.warning("%s: %s; trying again in %.1f s.", title, error, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds in a ``Retry-After`` header, a number or a date; ``None`` if it is neither."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return Retry().parse_retry_after(value) if value else None
    except InvalidHeader:
        return None

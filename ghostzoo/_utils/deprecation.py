"""How a public name is given up: a warning that says what to use instead, and when the name goes."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

removals: dict[str, tuple[int, ...]] = {}
"""Deprecated name -> the version in which it goes; a test fails once that version has come."""


def deprecated(*, since: str, removed_in: str, instead: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a public function or class as given up: calling it works, and gives a ``DeprecationWarning``.

    Args:
        since: version that first warns, such as ``"1.2"``.
        removed_in: version in which the name goes.
        instead: what to use, in a few words.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = f"ghostzoo.{function.__qualname__}"
        removals[name] = tuple(map(int, removed_in.split(".")))

        @functools.wraps(function)
        def warning(*args: P.args, **kwargs: P.kwargs) -> R:
            warnings.warn(
                f"{name} is deprecated since {since} and goes in {removed_in}; use {instead}.",
                DeprecationWarning,
                stacklevel=2,
            )
            return function(*args, **kwargs)

        return warning

    return decorate

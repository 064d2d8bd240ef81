"""What is given up warns, names its heir, and is gone when its version has come."""

from __future__ import annotations

import pytest

import ghostzoo
from ghostzoo._utils.deprecation import deprecated, removals


def test_a_deprecated_function_works_and_says_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghostzoo._utils.deprecation.removals", removals.copy())

    @deprecated(since="1.2", removed_in="1.4", instead="ghostzoo.load")
    def open_model(name: str) -> str:
        """Open."""
        return name

    with pytest.warns(DeprecationWarning, match="since 1.2 and goes in 1.4; use ghostzoo.load") as told:
        assert open_model("x") == "x"
    assert told[0].filename == __file__
    assert open_model.__doc__ == "Open."


def test_nothing_outlives_the_version_in_which_it_goes() -> None:
    for name in ghostzoo.__all__:
        getattr(ghostzoo, name)
    version = tuple(map(int, ghostzoo.__version__.split(".")[:2]))
    assert [name for name, removed_in in removals.items() if version >= removed_in] == []

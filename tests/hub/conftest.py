from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.hub import LoopbackHub, loopback_hub


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with loopback_hub() as running:
        yield running

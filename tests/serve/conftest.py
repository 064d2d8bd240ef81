from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from ghostzoo.bundle.folder import Bundle
from tests.fixtures.serving import ServerProcess, running_server


@pytest.fixture(scope="session")
def server(tiny_bundle: Bundle) -> Iterator[ServerProcess]:
    """A server of the tiny model with default options, for tests that leave it as it was."""
    with running_server("--model", str(tiny_bundle.path)) as process:
        yield process


@pytest.fixture(scope="session")
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    pytest.importorskip("PIL", reason="Pillow, which makes the pictures, is not installed here")
    from tests.fixtures.pictures import encoded, picture

    return encoded(picture(90, 70), "JPEG")

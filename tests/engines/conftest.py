"""Every engine there is, each on a machine and with a bundle that it can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.engines import engine_names, engine_record
from ghostzoo.engines.base import Engine, EngineOptions
from ghostzoo.errors import EngineUnavailableError


@pytest.fixture(scope="session", params=engine_names())
def engine_type(request: pytest.FixtureRequest) -> type[Engine]:
    record = engine_record(request.param)
    if not record.versions():
        pytest.skip(
            f"{record.name} is not installed here; 'make test-all' runs the engines in the environments they need"
        )
    kind = record.load_class()
    try:
        devices = kind.devices()
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    if not devices:
        pytest.skip(f"{record.name} finds no {kind.default_device} on this machine")
    return kind


@pytest.fixture(scope="session")
def engine_bundle(engine_type: type[Engine], tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny network, also in the engine's own format where it reads no ONNX."""
    if engine_type.name not in CONVERTED_FILES:
        return tiny_bundle
    from exporters.edge_formats import export_edge

    folder = tmp_path_factory.mktemp("engine")
    return export_edge(tiny_bundle.path, engine_type.name, out=folder / "tiny").bundle


@pytest.fixture
def options(engine_type: type[Engine]) -> Callable[..., EngineOptions]:
    """Make options with one thread, which only engines on CPUs count."""
    given: dict[str, Any] = {} if engine_type.default_device.startswith("cuda") else {"threads": 1}
    return lambda **more: EngineOptions(**{**given, **more})

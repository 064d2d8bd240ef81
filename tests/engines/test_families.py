"""Every engine runs every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.converter import convert
from ghostzoo.engines.base import Engine, EngineOptions
from ghostzoo.network.architecture import Architecture
from ghostzoo.parity import EXACT_TOLERANCE
from ghostzoo.weights.safetensors import dump_safetensors
from tests.fixtures.networks import random_arrays


@pytest.fixture(scope="module", params=["ghostnet_025", "repghostnet_025", "ghostnetv2_025", "ghostnetv3_025"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp(request.param)
    arrays = random_arrays(Architecture.named(request.param, 5))
    (folder / "model.safetensors").write_bytes(dump_safetensors(arrays))
    labels = list("abcde")
    return convert(folder / "model.safetensors", folder / "bundle", name=request.param, labels=labels, crop_size=64)


@pytest.mark.slow
def test_golden_vectors_of_each_family(
    engine_type: type[Engine], bundle: Bundle, options: Callable[..., EngineOptions], tmp_path: Path
) -> None:
    with engine_type.load(_for_engine(bundle, engine_type, tmp_path), options()) as engine:
        assert bundle.golden().check(engine.run).within(EXACT_TOLERANCE)


def _for_engine(bundle: Bundle, engine_type: type[Engine], folder: Path) -> Bundle:
    if engine_type.name not in CONVERTED_FILES:
        return bundle
    from exporters.edge_formats import export_edge

    return export_edge(bundle.path, engine_type.name, out=folder / "edge").bundle

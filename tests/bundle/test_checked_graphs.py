"""That a graph passed its check is remembered on this machine: for that graph, its bundle's facts and this version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ghostzoo.bundle import folder as module
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import BundleError
from ghostzoo.network import graph_check


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The files that are checked from now on, with an empty cache."""
    checked: list[str] = []
    real = graph_check.check_graph

    def check_graph(data: bytes, file: str, *, num_classes: int, image_size: int) -> None:
        checked.append(file)
        real(data, file, num_classes=num_classes, image_size=image_size)

    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(graph_check, "check_graph", check_graph)
    return checked


def test_a_graph_is_checked_once(tiny_bundle: Bundle, checks: list[str]) -> None:
    for _ in range(3):
        Bundle.open(tiny_bundle.path).model()
    assert checks == ["onnx/model.onnx"]


def test_another_version_checks_again(tiny_bundle: Bundle, checks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Bundle.open(tiny_bundle.path).model()
    monkeypatch.setattr(module, "__version__", "another")
    Bundle.open(tiny_bundle.path).model()
    assert len(checks) == 2


def test_a_graph_that_passed_is_refused_with_other_classes(tiny_bundle: Bundle, checks: list[str]) -> None:
    bundle = Bundle.open(tiny_bundle.path)
    bundle.model()
    fewer = replace(bundle, config=replace(bundle.config, labels=bundle.labels[:3]), _admitted=set())
    for _ in range(2):
        with pytest.raises(BundleError, match="logits"):
            fewer.model()
    assert len(checks) == 3


def test_without_a_cache_each_bundle_is_checked(
    tiny_bundle: Bundle, checks: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        Bundle.open(tiny_bundle.path).model()
    assert len(checks) == 2

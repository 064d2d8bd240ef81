"""What is prepared for one CPU is used only there, with the same library, graph and options."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ghostzoo._utils import hardware
from ghostzoo._utils.cache import prepare, writable_folder
from ghostzoo._utils.hardware import cpu_facts
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines import engine_class
from ghostzoo.engines.base import EngineOptions
from tests.conftest import make_tiny_bundle
from tests.fixtures.engines import require_engine

INTEL = {"vendor_id": "GenuineIntel", "model name": "Some CPU", "flags": "sse2 avx2", "cpu MHz": "2000.0"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GHOSTZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> set[str]:
    """The names of prepared models; that a graph was checked is kept, too."""
    files = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.name for path in files if path.parent.name != "checked"}


@pytest.fixture(params=["onnxruntime", "openvino"])
def opened(request: pytest.FixtureRequest, tiny_bundle: Bundle, cache: Path) -> Callable[..., set[str]]:
    """Open an engine that keeps prepared models; return the names of all files that are kept then."""
    require_engine(request.param)

    def open_and_list(bundle: Bundle = tiny_bundle, batch_size: int | None = None) -> set[str]:
        engine_class(request.param).load(bundle, EngineOptions(threads=1, batch_size=batch_size)).close()
        return kept(cache)

    return open_and_list


def test_what_was_prepared_is_used_again(opened: Callable[..., set[str]]) -> None:
    first = opened()
    assert len(first) == 1
    assert opened() == first


@pytest.mark.parametrize(
    "other", [{"vendor_id": "AuthenticAMD"}, {"flags": "sse2 avx2 avx512f"}, {"model name": "Another CPU"}]
)
def test_another_cpu_has_its_own(
    opened: Callable[..., set[str]], other: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_info", lambda: INTEL)
    first = opened()
    monkeypatch.setattr(hardware, "cpu_info", lambda: INTEL | other)
    assert len(opened() - first) == 1


def test_another_clock_is_no_other_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_info", lambda: INTEL)
    first = cpu_facts()
    monkeypatch.setattr(hardware, "cpu_info", lambda: INTEL | {"cpu MHz": "3000.0"})
    assert cpu_facts() == first
    monkeypatch.setattr(hardware, "cpu_info", dict)
    assert cpu_facts()[1:] != ()  # where the system lists nothing, there is still a name


def test_another_version_of_the_library_has_its_own(
    opened: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened()
    for name in ("onnxruntime", "openvino"):
        if name in sys.modules:
            monkeypatch.setattr(sys.modules[name], "__version__", "99.0.0")
    assert len(opened() - first) == 1


def test_another_graph_has_its_own(opened: Callable[..., set[str]], cache: Path, tmp_path: Path) -> None:
    other = make_tiny_bundle(tmp_path / "other", seed=1)
    shutil.rmtree(cache)  # the converter opens what it made
    first = opened()
    assert len(opened(other) - first) == 1


def test_another_batch_size_has_its_own(opened: Callable[..., set[str]]) -> None:
    first = opened()
    assert len(opened(batch_size=3) - first) == 1


def test_what_cannot_be_restored_is_opened_plainly(cache: Path) -> None:
    def restore(path: Path) -> str:
        raise RuntimeError("written by another version")

    def plain() -> str:
        return "plain"

    assert prepare("kind", (), build=lambda _: ("built", b"content"), restore=restore, plain=plain) == "built"
    assert prepare("kind", (), build=lambda _: ("built", b"content"), restore=restore, plain=plain) == "plain"
    cache.rename(cache.with_name("moved"))
    cache.write_bytes(b"no folder")
    assert prepare("kind", (), build=lambda _: ("built", b"content"), restore=restore, plain=plain) == "plain"


@pytest.mark.skipif(not Path("/proc/sys").exists(), reason="this system has no folder that root cannot write to")
def test_where_nothing_can_be_kept_nothing_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """To prepare a model takes longer than to open it plainly."""
    monkeypatch.setenv("GHOSTZOO_CACHE", "/proc")

    def never(_: object) -> str:
        raise AssertionError

    assert writable_folder("sys") is None
    assert prepare("sys", (), build=never, restore=never, plain=lambda: "plain") == "plain"

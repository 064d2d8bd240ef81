from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from ghostzoo.bundle.folder import Bundle
from ghostzoo.converter import convert
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.network.architecture import Architecture
from tests.fixtures.networks import random_arrays, write_weights

OPTIONAL = {
    "PIL", "fastapi", "grpc", "grpc_tools", "httpx", "hypercorn", "hypothesis", "onnxruntime_extensions", "openvino",
    "packaging", "paddle", "paddle2onnx", "playwright", "prometheus_client", "pydantic", "starlette", "torch",
    "trustme", "yaml",
}  # fmt: skip
"""Libraries without which a module of tests is skipped: those of extras and of the groups in ``pyproject.toml``."""
SLOW_FOLDERS = {"exporters", "training"}
LONGEST = (
    "serve/test_grpc_limits.py", "serve/test_slow_clients.py", "serve/test_hanging.py", "engines/test_forks.py",
    "web/test_page.py", "web/test_teach.py", "web/test_static_site.py", "serve/test_soak.py", "serve/test_operation.py",
    "training/test_fine_tuning.py", "training/test_resume.py", "training/test_processes.py",
    "training/test_families.py", "exporters/test_export.py", "exporters/test_export_archives.py",
    "exporters/test_originals.py",
)  # fmt: skip
"""Files that begin first, so that none is what the others wait for; after them those of the most slow tests, and at the
end the quick ones, which fill the gaps."""


class _SkippingModule(pytest.Module):
    """A module of tests that is skipped where an optional library that it imports is missing."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return list(super().collect())
        except self.CollectError as error:
            cause = error.__cause__
            name = (cause.name or "").partition(".")[0] if isinstance(cause, ModuleNotFoundError) else None
            if name not in OPTIONAL:
                raise
            pytest.skip(f"{name} is not installed here; 'make test' and 'make test-all' run these tests with it")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    return _SkippingModule.from_parent(parent, path=module_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent
    for item in items:
        if item.path.relative_to(root).parts[0] in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)
    # The order in which xdist hands out files.
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    first = {root / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (first.get(item.path, len(first)), -slow[item.path]))


@pytest.fixture(scope="session", autouse=True)
def own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of the tests' own, no way to the internet, and one engine where a test does not choose."""
    # A shell that starts the tests in the background has them ignore Ctrl-C, and so would the processes they interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GHOSTZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("GHOSTZOO_ENGINE", "onnxruntime")  # measuring takes seconds
        patch.setenv("GHOSTZOO_WEIGHTS_URL", str(tmp_path_factory.mktemp("no-weights")))
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub-client")))
        for variable in ("GHOSTZOO_MODELS", "GHOSTZOO_HUB_NAMESPACE", "HF_HUB_OFFLINE", "HF_TOKEN"):
            patch.delenv(variable, raising=False)
        yield


def make_tiny_bundle(out: Path, seed: int = 0, image_size: int = 64, multi_label: bool = False) -> Bundle:
    """A bundle of a narrow network with seven classes for small images, written to ``out``."""
    return convert(
        write_weights(out.with_suffix(".pdparams"), random_arrays(Architecture.of(0.25, 7), seed)),
        out,
        name="tiny",
        labels=[f"class-{index}" for index in range(7)],
        preprocessing=Preprocessing(resize_short=image_size + 8, crop_size=image_size),
        multi_label=multi_label,
    )


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="session")
def multi_label_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny network, said to find any number of classes in an image."""
    return make_tiny_bundle(tmp_path_factory.mktemp("multi-label") / "tiny", multi_label=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout with the original's weights, logits and photographs."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder} with the original's weights, logits and photographs to compare with")
    return folder

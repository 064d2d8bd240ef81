"""A classifier at work: side by side, interrupted, in event loops, and in other processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ghostzoo
from ghostzoo import BundleError, Classifier, ImageError, OptionError
from ghostzoo._utils.hardware import usable_cpus
from ghostzoo.bundle.folder import Bundle
from ghostzoo.fetch.store import Store
from tests.fixtures.engines import require_engine

pytestmark = pytest.mark.slow

COUNT = 40


@pytest.fixture(scope="module")
def classifier(tiny_bundle: Bundle) -> Iterator[Classifier]:
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=2) as clf:
        yield clf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many different pictures, large enough to be scaled down by several threads."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(1)
    for index in range(COUNT):
        coarse = rng.integers(0, 256, (4, 5, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index:03}.jpg"), cv2.resize(coarse, (700 + index, 600)))
    return folder


@pytest.fixture
def paths(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def workers_alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ghostzoo_")]


def indices(results: Any) -> list[list[int]]:
    return [[prediction.index for prediction in top] for top in results]


@pytest.mark.parametrize("workers", [None, 1, 2, 5])
def test_many_images_give_the_same_side_by_side(
    classifier: Classifier, folder: Path, paths: list[Path], workers: int | None
) -> None:
    expected = indices(classifier(path) for path in paths)
    for images in (folder, paths, tuple(map(str, paths)), iter(paths)):
        assert indices(classifier.predict(images, workers=workers)) == expected
    assert workers_alive() == []


def test_logits_come_in_order(classifier: Classifier, folder: Path, paths: list[Path]) -> None:
    expected = np.concatenate([classifier.logits(path) for path in paths])
    np.testing.assert_allclose(classifier.logits(folder), expected, atol=1e-5 * np.abs(expected).max())


def test_side_by_side_each_call_has_one_thread(classifier: Classifier, paths: list[Path]) -> None:
    list(classifier.predict(paths))
    assert classifier.engines.concurrent_calls == 2
    assert classifier.engines.for_many.describe()["threads"] == 1
    assert classifier.engine.describe()["threads"] == 2


def test_a_closed_classifier_opens_no_engine_for_many(tiny_bundle: Bundle, paths: list[Path]) -> None:
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=2) as clf:
        pass
    with pytest.raises(ghostzoo.EngineError, match="closed"):
        list(clf.predict(paths, workers=2))


def test_engine_options_that_set_the_threads_have_the_last_word(tiny_bundle: Bundle, paths: list[Path]) -> None:
    options = {"intra_op_num_threads": 2}
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", engine_options=options) as clf:
        assert len(list(clf.predict(paths, workers=2))) == COUNT
        assert clf.engines.for_many is clf.engine


def test_errors_have_their_places_side_by_side(classifier: Classifier, paths: list[Path], tmp_path: Path) -> None:
    missing = tmp_path / "missing.jpg"
    mixed = [*paths[:17], missing, *paths[17:], missing]
    results = list(classifier.predict(mixed, on_error="return", workers=3))
    assert [index for index, result in enumerate(results) if isinstance(result, ImageError)] == [17, COUNT + 1]
    assert indices(result for result in results if not isinstance(result, ImageError)) == indices(
        classifier.predict(paths)
    )
    results = classifier.predict(mixed, workers=3)
    for _ in range(17):
        next(results)
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        next(results)
    assert workers_alive() == []


def test_leaving_early_leaves_no_thread(classifier: Classifier, paths: list[Path]) -> None:
    for _ in classifier.predict(paths, workers=3):
        break
    assert workers_alive() == []


def test_an_exception_of_the_caller_leaves_no_thread(classifier: Classifier, paths: list[Path]) -> None:
    def careless() -> None:
        for _ in classifier.predict(paths, workers=3):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        careless()
    assert workers_alive() == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_ends_it_at_once(tiny_bundle: Bundle, paths: list[Path]) -> None:
    script = (
        "import itertools, ghostzoo, threading\n"
        f"clf = ghostzoo.load({str(tiny_bundle.path)!r}, engine='onnxruntime')\n"
        "try:\n"
        f"    for _ in clf.predict(itertools.cycle({list(map(str, paths))!r}), workers=3, batch_size=16):\n"
        "        print('working', flush=True)\n"
        "except KeyboardInterrupt:\n"
        "    names = [thread.name for thread in threading.enumerate()]\n"
        "    print('stopped', [name for name in names if name.startswith('ghostzoo_')])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert output.endswith("stopped []\n")
    assert process.returncode == 0


def test_an_event_loop_goes_on_meanwhile(classifier: Classifier, paths: list[Path]) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(*(classifier.apredict(path, top_k=3) for path in paths[:12]))

    assert asyncio.run(main()) == [classifier(path, top_k=3) for path in paths[:12]]

    async def failing() -> None:
        await classifier.apredict("missing.jpg")

    with pytest.raises(ImageError, match=r"missing\.jpg"):
        asyncio.run(failing())


def test_warmup_runs_the_network(tiny_bundle: Bundle) -> None:
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1, batch_size=2) as clf:
        clf.warmup()
        clf.warmup(5)
        with pytest.raises(ghostzoo.OptionError, match="batch_size"):
            clf.warmup(0)
    with pytest.raises(ghostzoo.EngineError, match="closed"):
        clf.warmup()


def test_pickling_loads_the_same_again(
    tiny_bundle: Bundle, paths: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limits = ghostzoo.ImageLimits(max_pixels=10_000_000)
    monkeypatch.chdir(tiny_bundle.path.parent)
    with ghostzoo.load(
        tiny_bundle.path.name + "/.", engine="onnxruntime", threads=1, batch_size=3, limits=limits
    ) as clf:
        data = pickle.dumps(clf)
        expected = clf(paths[0])
    assert len(data) < 10_000
    monkeypatch.chdir(tmp_path)  # where the relative path means nothing
    with pickle.loads(data) as other:
        assert other(paths[0]) == expected
        assert (other.limits, other.engine.options) == (clf.limits, clf.engine.options)


def test_no_token_is_pickled(tiny_bundle: Bundle) -> None:
    private = "hf_abcdefgh"
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1, token=private) as clf:
        data = pickle.dumps(clf)
    assert private.encode() not in data


def test_a_pickled_model_is_looked_for_where_it_was(tiny_bundle: Bundle, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(tiny_bundle.path, Store(models).hub_path("zoo/tiny", "a" * 40))
    options: dict[str, Any] = {"cache_dir": models, "offline": True, "progress": lambda *_: None}
    with ghostzoo.load(f"zoo/tiny@{'a' * 40}", engine="onnxruntime", threads=1, **options) as clf:
        data = pickle.dumps(clf)  # although what shows progress cannot be pickled
        path = clf.bundle.path
    with pickle.loads(data) as other:
        assert other.bundle.path == path


def test_pickling_works_across_processes(classifier: Classifier, paths: list[Path]) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(classifier, paths[:2]) == [classifier(path) for path in paths[:2]]


def test_a_pickled_model_that_is_gone_or_changed_is_an_error(tiny_bundle: Bundle, tmp_path: Path) -> None:
    from tests.conftest import make_tiny_bundle

    place = tmp_path / "model"
    shutil.copytree(tiny_bundle.path, place)
    with ghostzoo.load(place, engine="onnxruntime", threads=1) as clf:
        data = pickle.dumps(clf)
    shutil.rmtree(place)
    with pytest.raises(BundleError, match="no such folder"):
        pickle.loads(data)
    make_tiny_bundle(place, seed=1)
    with pytest.raises(BundleError, match="changed since the classifier was pickled"):
        pickle.loads(data)


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_a_senseless_number_of_workers_is_refused(classifier: Classifier, paths: list[Path], workers: object) -> None:
    with pytest.raises(OptionError, match=r"workers must be a whole number of at least 1"):
        classifier.predict(paths, workers=workers)


FORK = """
import faulthandler, os, signal, sys
import ghostzoo
faulthandler.register(signal.SIGALRM, chain=True)  # says where it hangs, and ends it
signal.alarm(100)
clf = ghostzoo.load({model!r}, engine={engine!r}, threads={threads})
expected = [[p.index for p in top] for top in clf.predict({images!r})]
begun = clf.predict({images!r}, batch_size=1, workers=2)
next(begun)
engine = clf.engine
child = os.fork()
if not child:
    signal.alarm(60)
    try:
        assert [[p.index for p in top] for top in clf.predict({images!r})] == expected
        assert [p.index for p in clf({images!r}[0])] == expected[0]
    except ghostzoo.EngineUnavailableError as error:
        print(error)
    for what in (lambda: next(begun), lambda: engine.run(clf.bundle.golden().pixel_values)):
        try:
            what()
        except ghostzoo.EngineError as error:
            print(error)
    engine.close()
    sys.exit(7)
_, status = os.waitpid(child, 0)
assert [[p.index for p in top] for top in clf.predict({images!r})] == expected
print("child ended with", os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_fork_works_and_ends(tiny_bundle: Bundle, paths: list[Path], engine: str) -> None:
    require_engine(engine)
    threads = min(2, usable_cpus())  # OpenVINO takes no more than there are
    script = FORK.format(model=str(tiny_bundle.path), engine=engine, threads=threads, images=list(map(str, paths)))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "before a fork come in the parent process only" in result.stdout
    assert "opened before this process was forked" in result.stdout
    assert ("cannot be used in a fork" in result.stdout) == (engine == "openvino")
    assert result.stdout.endswith("child ended with 7\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_forked_pools_work(classifier: Classifier, paths: list[Path]) -> None:
    expected = [classifier(path) for path in paths[:4]]
    list(classifier.predict(paths))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(classifier, paths[:4]).get(timeout=120) == expected


def test_many_calls_leave_memory_as_it_is(tiny_bundle: Bundle) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not tell the memory of a process in /proc/self/statm")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    image = np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as clf:
        for _ in range(200):
            clf(image)
        before = resident()
        for _ in range(2000):
            clf(image)
        assert resident() - before < 8 * 2**20

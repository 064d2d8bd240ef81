"""What every engine promises over time and between threads and processes, and on the original's own weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import run

import numpy as np
import pytest

import ghostzoo
from ghostzoo.bundle.folder import CONVERTED_FILES, Bundle
from ghostzoo.engines.base import Engine, EngineOptions
from ghostzoo.images.decode import read_image
from ghostzoo.images.transform import preprocess
from ghostzoo.parity import ENGINE_TOLERANCE, compare_logits

pytestmark = pytest.mark.slow

Options = Callable[..., EngineOptions]

THREADS, CALLS = 8, 60
WARM_CALLS, MANY_CALLS = 100, 1000
LEAK_BYTES = 8 * 2**20
"""A leak of one input a call would be 98 MB, of logits and embeddings 10 MB."""


def few(calls: int, engine_type: type[Engine]) -> int:
    """MNN waits busily, and a call takes a hundred times as long where other processes want the CPUs, too."""
    return calls // 10 if engine_type.name == "mnn" else calls


@pytest.fixture
def original(engine_type: type[Engine], shared: Path, tmp_path: Path) -> Bundle:
    """The official weights as a bundle, also in the engine's own format where it reads no ONNX."""
    weights = shared / "reference" / "GhostNet_x0_5_pretrained.pdparams"
    bundle = ghostzoo.convert(weights, tmp_path / "original", model="GhostNet_x0_5")
    if engine_type.name not in CONVERTED_FILES:
        return bundle
    from exporters.edge_formats import export_edge

    return export_edge(bundle.path, engine_type.name).bundle


def test_the_originals_answers_on_its_photographs(
    engine_type: type[Engine], original: Bundle, options: Options, shared: Path
) -> None:
    with np.load(shared / "reference" / "GhostNet_x0_5_logits.npz") as reference:
        expected = {Path(name).name: row for name, row in zip(reference["files"], reference["logits"], strict=True)}
    photos = sorted((shared / "images" / "photos").iterdir())
    batch = np.stack([preprocess(read_image(photo), original.preprocessing) for photo in photos])
    with engine_type.load(original, options()) as engine:
        actual = np.concatenate([engine.run(batch[:1]), engine.run(batch[1:])])
    agreement = compare_logits(np.stack([expected[photo.name] for photo in photos]), actual, ENGINE_TOLERANCE)
    assert agreement.within(ENGINE_TOLERANCE), agreement


def test_eight_threads_get_their_own_answers(
    engine_type: type[Engine], engine_bundle: Bundle, options: Options
) -> None:
    inputs = [np.full((1, 3, 64, 64), value, np.float32) for value in np.linspace(-2, 2, THREADS)]
    with engine_type.load(engine_bundle, options()) as engine:
        expected = [engine.run(batch) for batch in inputs]
        assert not any(np.array_equal(expected[0], other) for other in expected[1:])

        def ask(index: int) -> bool:
            return all(
                np.array_equal(engine.run(inputs[index]), expected[index]) for _ in range(few(CALLS, engine_type))
            )

        with ThreadPoolExecutor(THREADS) as pool:
            assert all(pool.map(ask, range(THREADS)))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc/self/statm to read from")
def test_a_thousand_calls_leave_memory_as_it_is(
    engine_type: type[Engine], engine_bundle: Bundle, options: Options
) -> None:
    batch = np.zeros((2, 3, 64, 64), np.float32)
    with engine_type.load(engine_bundle, options()) as engine:
        for _ in range(few(WARM_CALLS, engine_type)):
            engine.run(batch)
        before = resident_bytes()
        for _ in range(few(MANY_CALLS, engine_type)):
            engine.run(batch)
        assert resident_bytes() - before < LEAK_BYTES


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc/self/statm to read from")
def test_opening_and_closing_leaves_memory_as_it_is(
    engine_type: type[Engine], original: Bundle, options: Options
) -> None:
    def open_and_close() -> None:
        with engine_type.load(original, options()) as engine:
            engine.run(original.golden().pixel_values[:1])

    for _ in range(3):
        open_and_close()
    before = resident_bytes()
    for _ in range(10):
        open_and_close()
    assert resident_bytes() - before < 5 * len(original.model())  # ten models would be twice that


FORK = """
import os, sys
from ghostzoo.bundle.folder import Bundle
from ghostzoo.engines import engine_class
from ghostzoo.engines.base import EngineOptions
from ghostzoo.errors import EngineError, EngineUnavailableError
kind, options = engine_class({engine!r}), EngineOptions(**{options!r})
bundle = Bundle.open({path!r})
pixels = bundle.golden().pixel_values
engine = kind.load(bundle, options)
expected = engine.run(pixels)
child = os.fork()
if not child:
    try:
        engine.run(pixels)
    except EngineError as error:
        print(error, flush=True)
    try:
        with kind.load(bundle, options) as own:
            assert (own.run(pixels) == expected).all()
    except EngineUnavailableError as error:
        print(error, flush=True)
    engine.close()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert (engine.run(pixels) == expected).all()
print("both ended")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_fork_opens_its_own_or_says_why_not_and_ends(
    engine_type: type[Engine], engine_bundle: Bundle, options: Options
) -> None:
    threads = {"threads": options().threads}
    script = FORK.format(engine=engine_type.name, options=threads, path=str(engine_bundle.path))
    result = run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "opened before this process was forked" in result.stdout
    assert ("cannot be used in a fork" in result.stdout) == (not engine_type.opens_after_fork)
    assert result.stdout.endswith("both ended\n")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

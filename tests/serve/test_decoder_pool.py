"""Decoding in processes of its own, which hang, crash, run out of memory and are killed for real."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ghostzoo.errors import EngineUnavailableError, ImageError
from ghostzoo.images.decode import ImageLimits, read_image
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import cut_centre
from ghostzoo.serve.decoder_pool import DecoderPool
from ghostzoo.serve.queueing import Window
from ghostzoo.serve.server import new_event_loop
from tests.fixtures.pictures import FORMATS, encoded, picture
from tests.fixtures.slow_jpeg import slow_jpeg
from tests.test_lightness import modules_after

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = Preprocessing()
LIMITS = ImageLimits(max_pixels=2**31)
"""With few pixels, a file may have fewer scans, too."""


class Decoding:
    """A pool on an event loop in a thread of its own, for callers that wait, as the server's requests do."""

    def __init__(self, count: int, limits: ImageLimits = LIMITS, timeout: float = 60) -> None:
        self.ended: list[str] = []
        self._waiting: deque[tuple[Future[Window], tuple[Any, ...]]] = deque()
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.pool: DecoderPool = self._run(self._start(count, limits, timeout))

    async def _start(self, count: int, limits: ImageLimits, timeout: float) -> DecoderPool:
        pool = DecoderPool(count, limits, timeout, self.ended.append, self._feed)
        await pool.start()
        return pool

    def _run(self, work: Coroutine[None, None, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _feed(self) -> None:
        while self._waiting and self.pool.free:
            future, (source, config, deadline) = self._waiting.popleft()

            def on_done(outcome: Window | Exception, notes: str, future: Future[Window] = future) -> None:
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

            self.pool.decode(source, config, on_done, deadline)

    def submit(self, source: bytes, config: Preprocessing = CONFIG, deadline: float = math.inf) -> Future[Window]:
        future: Future[Window] = Future()
        self._waiting.append((future, (source, config, deadline)))
        self._loop.call_soon_threadsafe(self._feed)
        return future

    def decode(self, source: bytes, config: Preprocessing = CONFIG, deadline: float = math.inf) -> Window:
        return self.submit(source, config, deadline).result(60)

    @property
    def processes(self) -> list[int]:
        return self.pool.processes

    def close(self) -> None:
        self._run(self.pool.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def pool_of(count: int, *, limits: ImageLimits = LIMITS, timeout: float = 60) -> Iterator[tuple[Decoding, list[str]]]:
    decoding = Decoding(count, limits, timeout)
    try:
        yield decoding, decoding.ended
    finally:
        decoding.close()
    assert not any(map(is_running, decoding.processes))


@pytest.fixture(scope="module")
def pool() -> Iterator[Decoding]:
    with pool_of(1) as (pool, _):
        yield pool


@pytest.fixture(scope="module")
def slow() -> bytes:
    """Takes half a minute to decode."""
    return slow_jpeg(4000, side=4000)


@pytest.fixture
def jpeg() -> bytes:
    return encoded(picture(90, 70), "JPEG")


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for_the_end(child: int) -> None:
    with suppress(ChildProcessError):  # the pool has seen to it
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)


def wait_until(reached: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_busy(process: int) -> bool:
    """Whether it has taken processor time that a process which waits does not take."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) > 100


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_bits_as_in_this_process(pool: Decoding, kind: str) -> None:
    name, options = FORMATS[kind]
    image = encoded(picture(), name, **options)
    for config in (CONFIG, Preprocessing.timm()):
        np.testing.assert_array_equal(pool.decode(image, config), cut_centre(read_image(image), config), strict=True)


def test_images_and_crops_larger_than_the_shared_memory(pool: Decoding, jpeg: bytes) -> None:
    large = encoded(picture(900, 700), "BMP")
    assert len(large) > 2**20
    for image in (large, jpeg):
        for crop in (224, 700):
            config = replace(CONFIG, resize_short=700, crop_size=crop)
            np.testing.assert_array_equal(pool.decode(image, config), cut_centre(read_image(image), config))


@pytest.mark.parametrize("image", [b"", b"no image", encoded(picture(), "PNG")[:-200], encoded(picture(), "PNG")])
def test_the_same_errors_as_in_this_process(image: bytes) -> None:
    limits = ImageLimits(max_pixels=100)
    with pytest.raises(ImageError) as expected:
        read_image(image, limits)
    with pool_of(1, limits=limits) as (pool, ended), pytest.raises(ImageError) as caught:
        pool.decode(image, CONFIG)
    assert (str(caught.value), ended) == (str(expected.value), [])


def test_what_is_overdue_is_stopped_and_holds_up_nobody(slow: bytes, jpeg: bytes) -> None:
    with pool_of(2, timeout=2) as (pool, ended):
        overdue = pool.submit(slow)
        answered = 0
        while not overdue.done():
            pool.decode(jpeg, CONFIG)
            answered += 1
        assert answered > 1
        with pytest.raises(ImageError, match=r"was stopped after 2\."):
            overdue.result()
        assert ended == ["overdue"]
        for _ in range(3):
            pool.decode(jpeg, CONFIG)


def test_a_deadline_stops_too_but_not_what_takes_no_time(slow: bytes, jpeg: bytes) -> None:
    with pool_of(1) as (pool, ended):
        before = time.perf_counter()
        with pytest.raises(ImageError, match="was stopped after"):
            pool.decode(slow, CONFIG, before + 0.1)
        assert time.perf_counter() - before < 20
        pool.decode(jpeg, CONFIG, before)  # that has passed, but it is cheaper to finish it
        assert ended == ["overdue"]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_costs_its_own_image_only(slow: bytes, jpeg: bytes, number: signal.Signals) -> None:
    with pool_of(1) as (pool, ended):
        (process,) = pool.processes
        killer = threading.Thread(target=lambda: (wait_until(lambda: is_busy(process)), os.kill(process, number)))
        killer.start()
        with pytest.raises(ImageError, match=f"ended the decoder \\(signal {number.value}, {number.name}\\)"):
            pool.decode(slow, CONFIG)
        killer.join()
        assert ended == ["crashed"]
        pool.decode(jpeg, CONFIG)
        assert pool.processes != [process]


def test_what_is_in_hand_is_given_up_when_the_server_ends(slow: bytes) -> None:
    with pool_of(1) as (pool, ended):
        (process,) = pool.processes
        in_hand, waiting = pool.submit(slow), pool.submit(slow)
        wait_until(lambda: is_busy(process))
        pool.pool.kill()
        for given_up in (in_hand, waiting):
            with pytest.raises((ImageError, EngineUnavailableError), match=r"the server has ended|is shutting down"):
                given_up.result(10)
        assert (ended, pool.processes) == ([], [process])


def test_no_image_is_blamed_for_a_process_that_was_dead_before(jpeg: bytes) -> None:
    with pool_of(1) as (pool, ended):
        (process,) = pool.processes
        os.kill(process, signal.SIGKILL)
        wait_for_the_end(process)
        pool.decode(jpeg, CONFIG)
        assert ended == []


def test_signals_to_the_whole_group_are_not_for_it(jpeg: bytes) -> None:
    with pool_of(1) as (pool, _):
        (process,) = pool.processes
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(process, number)
        pool.decode(jpeg, CONFIG)
        assert pool.processes == [process]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is bounded where /proc tells what there is")
def test_memory_is_bounded() -> None:
    image = encoded(Image.new("RGB", (2000, 10)), "PNG")
    with pool_of(1, limits=ImageLimits(max_bytes=2**20, max_pixels=10**6)) as (pool, ended):
        pool.decode(image, CONFIG)
        with pytest.raises(ImageError, match="takes more memory than one image may have"):
            pool.decode(image, replace(CONFIG, resize_short=1024))  # 0.6 GB, were it done
        assert ended == []
        pool.decode(image, CONFIG)


def test_it_ends_with_its_parent_even_while_it_decodes(slow: bytes, tmp_path: Path) -> None:
    (tmp_path / "slow.jpg").write_bytes(slow)
    code = (
        "import sys, threading, time; from pathlib import Path; from tests.serve.test_decoder_pool import *\n"
        "pool = Decoding(2, LIMITS, 600); pool.submit(Path(sys.argv[1]).read_bytes())\n"
        "while not any(map(is_busy, pool.processes)): time.sleep(0.01)\n"
        "print(*pool.processes, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "slow.jpg")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        processes = [int(each) for each in parent.stdout.readline().split()]
        assert len(processes) == 2
        assert all(map(is_running, processes))
        parent.kill()
    wait_until(lambda: not any(map(is_running, processes)), 10)


def test_it_imports_nothing_of_the_server() -> None:
    loaded = modules_after("import ghostzoo.serve.decoder")
    assert not loaded & {
        "fastapi",
        "starlette",
        "hypercorn",
        "grpc",
        "prometheus_client",
        "onnxruntime",
        "onnx",
        "click",
    }


def test_what_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch, jpeg: bytes) -> None:
    with pool_of(1) as (pool, _):
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        os.kill(pool.processes[0], signal.SIGKILL)
        wait_for_the_end(pool.processes[0])
        with pytest.raises(EngineUnavailableError, match="No such file"):
            pool.decode(jpeg, CONFIG)
        monkeypatch.undo()
        pool.decode(jpeg, CONFIG)

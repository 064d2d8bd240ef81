"""Decoding in processes of its own, which hang, crash, run out of memory and are killed for real."""

from __future__ import annotations

import asyncio
import gc
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
from ghostzoo.serve import decoder_process
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
        pool.start()
        await pool.wait_until_ready()
        return pool

    def _run(self, work: Coroutine[None, None, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _feed(self) -> None:
        while self._waiting and hasattr(self, "pool") and self.pool.free:
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


def kill_and_wait(child: int) -> None:
    with suppress(ProcessLookupError):  # it has ended already
        os.kill(child, signal.SIGKILL)
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
        with pytest.raises(ImageError, match=r"was stopped after [2-9]\."):
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
        kill_and_wait(process)
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


@contextmanager
def starting(monkeypatch: pytest.MonkeyPatch, code: str) -> Iterator[None]:
    """Have processes that are started within the block run ``code`` in place of the decoder."""
    with monkeypatch.context() as patched:
        patched.setattr(decoder_process, "_START", code)
        yield


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, "No such file"),
        ("pass", "it has ended at once"),
        ("print('Hello!', flush=True); import time; time.sleep(600)", "said what it should not"),
        ("print('ready', flush=True)", "it has ended"),
    ],
    ids=["no Python", "ends", "says more", "ends when ready"],
)
def test_what_cannot_be_started_is_told(
    monkeypatch: pytest.MonkeyPatch, jpeg: bytes, code: str | None, reason: str
) -> None:
    """To each image, and the next is tried anew."""
    with pool_of(2) as (pool, ended):
        with starting(monkeypatch, code or ""):
            if code is None:
                monkeypatch.setattr(sys, "executable", "/nowhere/python")
            for process in pool.processes:
                kill_and_wait(process)
            failed = [pool.submit(jpeg) for _ in range(10)]
            for each in failed:
                error = each.exception(60)
                if code == "print('ready', flush=True)" and isinstance(error, ImageError):
                    continue  # it had the image before it ended
                assert isinstance(error, EngineUnavailableError)
                assert reason in str(error)
            if code is None:
                monkeypatch.undo()
        wait_until(lambda: len(pool.pool._idle) == 2)
        for process in pool.processes:  # which were started meanwhile
            kill_and_wait(process)
        for each in [pool.submit(jpeg) for _ in range(10)]:
            assert each.result(60).shape == (224, 224, 3)
        assert set(ended) <= {"crashed"}


def test_a_start_that_takes_too_long(monkeypatch: pytest.MonkeyPatch, jpeg: bytes) -> None:
    with pool_of(1) as (pool, _):
        with starting(monkeypatch, "import time; time.sleep(600)"), monkeypatch.context() as patched:
            patched.setattr(decoder_process, "_START_SECONDS", 0.5)
            kill_and_wait(pool.processes[0])
            for each in [pool.submit(jpeg) for _ in range(3)]:
                assert "not ready within 0.5 seconds" in str(each.exception(60))
        assert pool.decode(jpeg).shape == (224, 224, 3)


def test_a_process_that_dies_while_others_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client gets its own image, whichever process dies when."""
    red, blue = (encoded(Image.new("RGB", (300, 300), name), "PNG") for name in ("red", "blue"))

    async def run() -> None:
        free: list[bool] = []
        pool = DecoderPool(3, LIMITS, 60, on_free=lambda: free.append(True))
        pool.start()
        while not free:
            await asyncio.sleep(0.001)
        kill_and_wait(pool.processes[0])
        with suppress(EngineUnavailableError):  # it may not have been ready
            await pool.wait_until_ready()
        found: dict[int, Window | Exception] = {}
        for index in range(30):
            while not pool.free:
                await asyncio.sleep(0.001)
            pool.decode((red, blue)[index % 2], CONFIG, lambda outcome, _, index=index: found.update({index: outcome}))
        async with asyncio.timeout(60):
            while len(found) < 30:
                await asyncio.sleep(0.01)
        await pool.close()
        for index, window in found.items():
            assert isinstance(window, np.ndarray)
            assert window[100, 100].tolist() == [[255, 0, 0], [0, 0, 255]][index % 2]

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(run())


def test_what_a_decoder_leaves_running_holds_up_nobody(monkeypatch: pytest.MonkeyPatch, jpeg: bytes) -> None:
    """As one might that somebody has taken over: a child of it keeps the line open, and floods it."""
    code = (
        "import os, sys, time\n"
        "os.write(1, b'ready' + bytes([10]))\n"
        "os.read(0, 100)\n"
        "if os.fork():\n"
        "    time.sleep(600)\n"
        "try:\n"
        "    while True: os.write(1, bytes(65536))\n"
        "except OSError:\n"
        "    pass"
    )
    with pool_of(1) as (pool, ended):
        with starting(monkeypatch, code):
            kill_and_wait(pool.processes[0])
            with pytest.raises(ImageError, match="it is damaged"):
                pool.decode(jpeg)
        wait_until(lambda: pool.pool.free)
        kill_and_wait(pool.processes[0])  # which was started meanwhile
        assert pool.decode(jpeg).shape == (224, 224, 3)
        assert ended == ["crashed"]


def test_time_to_start_is_not_the_images(monkeypatch: pytest.MonkeyPatch, jpeg: bytes) -> None:
    slow_start = f"import time; time.sleep(1.5); {decoder_process._START}"
    with pool_of(1, timeout=1) as (pool, ended):
        with starting(monkeypatch, slow_start):
            kill_and_wait(pool.processes[0])
            assert pool.decode(jpeg, deadline=time.perf_counter()).shape == (224, 224, 3)
        assert ended == []


def test_an_answer_that_waits_to_be_read_is_in_time(jpeg: bytes) -> None:
    """The event loop was held up until after the image was due."""
    with pool_of(1, timeout=1) as (pool, ended):
        for _ in range(5):
            answer = pool.submit(jpeg)
            pool._loop.call_soon_threadsafe(time.sleep, 1.2)
            assert answer.result(60).shape == (224, 224, 3)
        assert ended == []


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc tells which descriptors are open")
def test_descriptors_are_closed_with_the_pool(jpeg: bytes) -> None:
    gc.collect()
    before = open_descriptors()
    for _ in range(2):
        with pool_of(2) as (pool, _):
            pool.decode(jpeg)
    assert open_descriptors() == before

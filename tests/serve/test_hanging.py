"""A server whose decoder hangs: what it answers meanwhile, and that it can be ended."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from ghostzoo.bundle.folder import Bundle
from ghostzoo.serve.open_inference.messages import SERVICE, message
from tests.fixtures.serving import ServerProcess, running_server
from tests.fixtures.slow_jpeg import slow_jpeg
from tests.serve.test_decoder_pool import is_running, wait_until

pytestmark = pytest.mark.slow

ANY_PIXELS = ("--max-pixels", str(2**31))
"""With few pixels, a file may have fewer scans, too."""


@pytest.fixture(scope="module")
def slow() -> bytes:
    """Takes half a minute to decode."""
    return slow_jpeg(4000, side=4000)


@contextmanager
def posting(server: ServerProcess, data: bytes) -> Iterator[list[requests.Response | Exception]]:
    """Post in another thread; what it gets is in the list at the end."""
    got: list[requests.Response | Exception] = []

    def post() -> None:
        try:
            got.append(requests.post(f"{server.http}/v1/classify", data=data, timeout=120))
        except requests.RequestException as error:
            got.append(error)

    thread = threading.Thread(target=post)
    thread.start()
    yield got
    thread.join()


def status(server: ServerProcess, path: str) -> int:
    return requests.get(server.http + path, timeout=60).status_code


def decoders(server: ServerProcess) -> list[int]:
    folder = Path(f"/proc/{server.process.pid}/task")
    return [int(child) for task in folder.glob("*/children") for child in task.read_text().split()]


def test_an_overdue_image_costs_no_other(tiny_bundle: Bundle, slow: bytes, jpeg: bytes) -> None:
    options = ("--workers", "2", "--decode-timeout", "2", *ANY_PIXELS)
    with running_server("--model", str(tiny_bundle.path), *options) as server:
        with posting(server, slow) as got:
            while not got:
                assert requests.post(f"{server.http}/v1/classify", data=jpeg, timeout=60).status_code == 200
                assert status(server, "/readyz") == 200
        (answer,) = got
        assert isinstance(answer, requests.Response)
        assert answer.status_code == 422
        assert "was stopped after 2." in answer.json()["images"][0]["error"]
        text = requests.get(f"{server.http}/metrics", timeout=60).text
        assert 'ghostzoo_decoders_replaced_total{reason="overdue"} 1.0' in text
        assert server.lines_with(message="A decoding process was ended and replaced.")
        assert requests.post(f"{server.http}/v1/classify", data=jpeg, timeout=60).status_code == 200


def test_a_deadline_frees_the_worker(tiny_bundle: Bundle, slow: bytes, jpeg: bytes) -> None:
    options = ("--workers", "1", "--deadline", "2", *ANY_PIXELS)
    with running_server("--model", str(tiny_bundle.path), *options) as server:
        start = time.monotonic()
        assert requests.post(f"{server.http}/v1/classify", data=slow, timeout=60).status_code == 504
        wait_until(lambda: requests.post(f"{server.http}/v1/classify", data=jpeg, timeout=60).status_code == 200)
        assert time.monotonic() - start < 15, "decoding it takes longer"


def test_not_ready_while_all_workers_are_overdue(tiny_bundle: Bundle, jpeg: bytes) -> None:
    options = ("--workers", "1", "--deadline", "1", "--no-decode-processes", *ANY_PIXELS)

    def probes(server: ServerProcess) -> dict[str, Any]:
        request, answer = message("ServerReadyRequest")(), message("ServerReadyResponse")
        with grpc.insecure_channel(server.grpc) as channel:
            run = channel.unary_unary(f"/{SERVICE}/ServerReady", type(request).SerializeToString, answer.FromString)
            over_grpc = run(request, timeout=60).ready
        return {
            "live": status(server, "/healthz"),
            "rest": status(server, "/v2/health/ready"),
            "grpc": over_grpc,
        }

    with running_server("--model", str(tiny_bundle.path), *options) as server:
        assert status(server, "/readyz") == 200
        assert requests.post(f"{server.http}/v1/classify", data=slow_jpeg(1800), timeout=60).status_code == 504
        wait_until(lambda: status(server, "/readyz") == 503, 5)
        answer = requests.get(f"{server.http}/readyz", timeout=60)
        assert "every worker has been busy" in answer.text
        assert probes(server) == {"live": 200, "rest": 503, "grpc": False}
        wait_until(lambda: status(server, "/readyz") == 200, 120)
        assert probes(server) == {"live": 200, "rest": 200, "grpc": True}
        assert requests.post(f"{server.http}/v1/classify", data=jpeg, timeout=60).status_code == 200


def test_not_alive_when_they_hang_for_very_long(tiny_bundle: Bundle, slow: bytes) -> None:
    options = ("--workers", "1", "--deadline", "0.2", "--no-decode-processes", *ANY_PIXELS)
    with running_server("--model", str(tiny_bundle.path), *options) as server:
        assert requests.post(f"{server.http}/v1/classify", data=slow, timeout=60).status_code == 504
        assert status(server, "/healthz") == 200
        wait_until(lambda: status(server, "/healthz") == 503, 20)
        assert status(server, "/v2/health/live") == 503


@pytest.mark.parametrize("decoding", ["--decode-processes --decode-timeout 60", "--no-decode-processes"])
def test_sigterm_ends_a_server_that_hangs(tiny_bundle: Bundle, slow: bytes, decoding: str) -> None:
    options = ("--workers", "1", "--deadline", "60", "--drain-timeout", "1", *decoding.split())
    with running_server("--model", str(tiny_bundle.path), *options, *ANY_PIXELS) as server:
        with posting(server, slow) as got:
            is_in_hand = 'ghostzoo_requests_active{protocol="http"} 2.0'
            wait_until(lambda: is_in_hand in requests.get(f"{server.http}/metrics", timeout=60).text)
            time.sleep(1)  # until a worker has it in hand
            children = decoders(server)
            code = server.terminate()
        (answer,) = got
        assert not isinstance(answer, requests.Response) or answer.status_code != 200  # it was not decoded
        if decoding.startswith("--decode-processes"):
            assert code == 0
            assert children
        else:
            assert code == 1
            (line,) = [line for line in server.log() if "left" in line]
            assert line["left"][0].startswith("decoding 1 image(s) for tiny on onnxruntime for ")
        wait_until(lambda: not any(map(is_running, children)), 10)


def test_a_second_sigint_ends_it_at_once(tiny_bundle: Bundle, slow: bytes) -> None:
    options = ("--workers", "1", "--no-decode-processes", *ANY_PIXELS)
    with running_server("--model", str(tiny_bundle.path), *options) as server, posting(server, slow):
        wait_until(lambda: 'http"} 2.0' in requests.get(f"{server.http}/metrics", timeout=60).text)
        time.sleep(1)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 1  # after a whole drain it is 130


def test_no_process_is_left_when_the_server_is_killed(tiny_bundle: Bundle, jpeg: bytes) -> None:
    with running_server("--model", str(tiny_bundle.path)) as server:
        assert requests.post(f"{server.http}/v1/classify", data=jpeg, timeout=60).status_code == 200
        children = decoders(server)
        assert all(map(is_running, children))
        assert len(children) > 1
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(map(is_running, children)), 10)

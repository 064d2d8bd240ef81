"""``--allow-urls``: what a client may have fetched, what not, and that nobody else pays for it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import ImageError, OptionError
from ghostzoo.serve import fetching
from ghostzoo.serve.fetching import OF_ONE_CLIENT, FairSlots
from ghostzoo.serve.options import ServeOptions
from ghostzoo.serve.service import RequestInfo, Service
from tests.fixtures.server import content, serve
from tests.fixtures.serving import ServerProcess, running_server

pytestmark = pytest.mark.slow

MIB = 2**20

# A server that fetches from this machine, for there is no other one to fetch from in a test.
PROGRAM = """
import sys
from dataclasses import replace
from ghostzoo.serve.options import ServeLimits, ServeOptions
from ghostzoo.serve.server import serve
model, seconds, *ports = sys.argv[1:]
limits = ServeLimits()
limits = replace(limits, image=replace(limits.image, url_timeout=float(seconds)))
serve(ServeOptions(
    models=(model,), port=0, grpc_port=None, limits=limits, allow_urls=True, deadline=3 * float(seconds),
    url_ports=tuple(map(int, ports)), url_policy=lambda address: address.is_loopback,
))
"""


def fetching_server(bundle: Bundle, *addresses: str, url_timeout: float = 10) -> Any:
    ports = [address.rpartition(":")[2] for address in addresses]
    return running_server(str(bundle.path), str(url_timeout), *ports, program=("-c", PROGRAM))


class Silent:
    """Takes connections and says nothing."""

    def __init__(self, listener: socket.socket) -> None:
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._listener = listener
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                self.connections.append(self._listener.accept()[0])
            except OSError:
                return

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.connections) >= count)

    def all_are_closed(self) -> bool:
        for connection in self.connections:
            connection.settimeout(30)
            while connection.recv(65536):
                pass
        return True


@contextmanager
def silent_server() -> Iterator[Silent]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        silent = Silent(listener)
        yield silent
        listener.shutdown(socket.SHUT_RDWR)
        for connection in silent.connections:
            connection.close()


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def buffered(server: ServerProcess) -> float:
    lines = requests.get(f"{server.http}/metrics", timeout=60).text.splitlines()
    return float(next(line for line in lines if line.startswith("ghostzoo_buffered_bytes ")).split()[1])


def classify(server: ServerProcess, urls: list[str], source: str = "127.0.0.1") -> requests.Response:
    """Ask for ``urls`` as a client with the address ``source``."""

    class From(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options, source_address=(source, 0))

    with requests.Session() as session:
        session.mount("http://", From())
        body = {"images": [{"url": url} for url in urls]}
        return session.post(f"{server.http}/v1/classify", json=body, timeout=120)


def test_nothing_of_this_machine_is_fetched(tiny_bundle: Bundle, jpeg: bytes) -> None:
    asked: list[str] = []
    with serve({"/cat.jpg": lambda request: (asked.append(request.path), content(jpeg)(request))}) as address:
        port = address.rpartition(":")[2]
        hosts = ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0"]  # noqa: S104
        images = [{"url": f"http://{host}:{port}/cat.jpg"} for host in hosts]
        images += [{"url": "file:///etc/passwd"}, {"url": "http://169.254.169.254/latest"}, {"url": "nonsense"}]
        options = ("--model", str(tiny_bundle.path), "--allow-urls", "--no-grpc")
        with running_server(*options, "--url-port", "80", "--url-port", port) as server:
            answer = requests.post(f"{server.http}/v1/classify", json={"images": images}, timeout=60)
            assert answer.status_code == 422
            assert all(image["error"] for image in answer.json()["images"])
            old = {"image": images[0]["url"]}
            answer = requests.post(f"{server.http}/image-classification", json=old, timeout=60)
            assert (answer.status_code, "not public" in answer.json()["errorMsg"]) == (422, True)
        with running_server(*options) as server:
            answer = requests.post(f"{server.http}/v1/classify", json={"images": images[:1]}, timeout=60)
            assert f"its port is {port}" in answer.json()["images"][0]["error"]
            assert "80, 443" in answer.json()["images"][0]["error"]
    assert asked == []


@pytest.mark.parametrize("ports", [(), (0,), (80, 65536)])
def test_ports_that_there_are_not(ports: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="url_ports"):
        ServeOptions(url_ports=ports)


def fetch(urls: list[str], seconds: float) -> list[object]:
    """What a server gets for ``urls`` within a deadline, if it may fetch from this machine."""
    ports = tuple(int(url.split(":")[2].partition("/")[0]) for url in urls)

    async def run() -> list[object]:
        options = ServeOptions(grpc_port=None, url_ports=ports, url_policy=lambda address: address.is_loopback)
        service = Service(options)
        try:
            request_info = RequestInfo("id", 0.0, asyncio.get_running_loop().time() + seconds)
            found = (service.fetch(url, request_info, lambda size: None) for url in urls)
            return await asyncio.gather(*found, return_exceptions=True)
        finally:
            await service.close()

    return asyncio.run(run())


def test_allowed_addresses_are_fetched(jpeg: bytes) -> None:
    with serve({"/cat.jpg": content(jpeg)}) as address:
        found, missing = fetch([f"{address}/cat.jpg", f"{address}/dog.jpg"], 30)
        assert found == jpeg
        assert isinstance(missing, ImageError)


def test_more_urls_than_fetched_at_once_end_at_the_deadline() -> None:
    with silent_server() as silent:
        results = fetch([f"{silent.address}/cat.jpg"] * 20, 0.5)
    assert len(results) == 20
    # The first ones hear it from their own download, whichever is earlier.
    assert all(isinstance(result, ImageError) or getattr(result, "status", None) == 504 for result in results)
    assert any(getattr(result, "status", None) == 504 for result in results)


def test_images_of_one_call_take_no_more_memory_than_its_limit(tiny_bundle: Bundle) -> None:
    """64 URLs, each of an image as large as one may be."""
    with serve({"/large": content(bytes(32 * MIB))}) as address, fetching_server(tiny_bundle, address) as server:
        status = Path(f"/proc/{server.process.pid}/status")
        if not status.exists():
            pytest.skip("what a process has had in memory is told by /proc, which this system does not have")

        def peak() -> float:
            return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024

        before = peak()
        answer = classify(server, [f"{address}/large"] * 64)
        assert (answer.status_code, "too large together" in answer.text) == (413, True)
        wait_until(lambda: buffered(server) == 0)
        assert peak() - before < 200  # for 64 MiB of images


def test_slow_urls_of_one_client_keep_no_other_waiting(tiny_bundle: Bundle, jpeg: bytes) -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        silent_server() as silent,
        serve({"/cat.jpg": content(jpeg)}) as address,
        fetching_server(tiny_bundle, silent.address, address) as server,
    ):
        slow = pool.submit(classify, server, [f"{silent.address}/"] * 64, "127.0.0.2")
        silent.wait_for(OF_ONE_CLIENT)
        answer = classify(server, [f"{address}/cat.jpg"] * 3)
        assert not slow.done()
        assert answer.status_code == 200, answer.text
        assert all("predictions" in image for image in answer.json()["images"])
        assert len(silent.connections) == OF_ONE_CLIENT
        server.process.kill()


def test_a_call_that_has_failed_ends_its_other_downloads(tiny_bundle: Bundle) -> None:
    with (
        silent_server() as silent,
        serve({"/large": content(bytes(32 * MIB))}) as address,
        fetching_server(tiny_bundle, silent.address, address, url_timeout=600) as server,
    ):
        urls = [f"{silent.address}/"] * 3 + [f"{address}/large"] * 3
        assert classify(server, urls).status_code == 413
        silent.wait_for(3)
        assert silent.all_are_closed()


def test_downloads_end_when_the_client_goes(tiny_bundle: Bundle) -> None:
    with silent_server() as silent, fetching_server(tiny_bundle, silent.address, url_timeout=600) as server:
        body = b'{"images":[{"url":"%s/"}]}' % silent.address.encode()
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        old = b'{"image":"%s/"}' % silent.address.encode()
        for path, text in ((b"/v1/classify", body), (b"/image-classification", old)):
            with socket.create_connection(server.host_and_port) as client:
                before = len(silent.connections)
                client.sendall(head % (path, len(text)) + text)
                silent.wait_for(before + 1)
            assert silent.all_are_closed()
        wait_until(lambda: [line["status"] for line in server.log() if line["message"] == "request"] == ["499", "499"])
        assert server.terminate() == 0


@pytest.mark.parametrize("path", ["/v1/classify", "/image-classification"])
def test_bytes_are_counted_as_they_come(tiny_bundle: Bundle, path: str) -> None:
    """Of an image whose end does not come."""
    go = threading.Event()

    def half(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(2 * MIB))
        request.end_headers()
        request.wfile.write(bytes(MIB))
        go.wait(60)

    with (
        ThreadPoolExecutor(1) as pool,
        serve({"/half": half}) as address,
        fetching_server(tiny_bundle, address) as server,
    ):
        url = f"{address}/half"
        body = {"image": url} if path == "/image-classification" else {"images": [{"url": url}]}
        pool.submit(requests.post, server.http + path, json=body, timeout=60)
        wait_until(lambda: buffered(server) >= MIB)
        go.set()
        wait_until(lambda: buffered(server) == 0)


def turns_taken(at_once: int, of_one_client: int, asked: str, ended: int) -> str:
    """Which clients got a turn, in order, when ``asked`` came one after another and ``ended`` turns were given back."""

    async def run() -> str:
        turns, taken = FairSlots(at_once, of_one_client), []

        async def take(client: str) -> None:
            await turns.take(client)
            taken.append(client)

        tasks = [asyncio.create_task(take(client)) for client in asked]
        await asyncio.sleep(0)
        for index in range(ended + 1):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if index < ended:
                turns.give_back(taken[index])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return "".join(taken)

    return asyncio.run(run())


def test_turns_go_round() -> None:
    assert turns_taken(2, 2, "aaaaaabbc", 0) == "aa"
    assert turns_taken(2, 2, "aaaaaabbc", 7) == "aaabcabaa"
    assert turns_taken(3, 2, "aaaa", 0) == "aa"  # one stays free for others
    assert turns_taken(3, 2, "aaaab", 0) == "aab"
    assert turns_taken(3, 1, "aaabbb", 2) == "abab"


@pytest.mark.parametrize(
    ("client", "named"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("a socket", ""),
        (None, ""),
    ],
)
def test_clients_of_one_network_share_turns(client: str | None, named: str) -> None:
    assert fetching._network(client) == named


def test_a_turn_that_nobody_waits_for_any_more_goes_to_the_next() -> None:
    async def run() -> None:
        turns = FairSlots(1, 1)
        await turns.take("a")
        given_up, other = asyncio.create_task(turns.take("b")), asyncio.create_task(turns.take("c"))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        turns.give_back("a")
        async with asyncio.timeout(30):
            await other
        late = asyncio.create_task(turns.take("d"))
        await asyncio.sleep(0)
        turns.give_back("c")
        late.cancel()  # in the same moment as its turn comes
        await asyncio.gather(late, return_exceptions=True)
        assert late.cancelled()
        async with asyncio.timeout(30):
            await turns.take("e")

    asyncio.run(run())

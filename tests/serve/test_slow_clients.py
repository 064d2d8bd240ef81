"""Clients that take no answer in, take it in slowly, or have only closed the side on which they send."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import Bundle
from tests.fixtures.pictures import encoded, picture
from tests.fixtures.serving import ServerProcess, running_server
from tests.fixtures.watching import watched

pytestmark = pytest.mark.slow

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the server's memory from /proc")
MIB = 2**20
CLIENTS = 100
FILE = "README.md"


@pytest.fixture(scope="module")
def large_bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a file of 8 MiB."""
    contents = {name: tiny_bundle.read(name) for name in tiny_bundle.manifest.files} | {FILE: bytes(8 * MIB)}
    out = tmp_path_factory.mktemp("large") / "large"
    return write_bundle(out, name="large", contents=contents, weights={}, created_by={}, validation={}).path


@contextlib.contextmanager
def client(server: ServerProcess, buffer: int = 4096) -> Iterator[socket.socket]:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(60)
        connection.connect(server.host_and_port)
        yield connection


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(data: bytes) -> bytes:
    head = f"POST /v1/classify?top_k=7 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def read_to_end(connection: socket.socket) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            received += part
    return bytes(received)


@on_linux
def test_clients_that_do_not_read(large_bundle: Path, jpeg: bytes) -> None:
    """They take next to no memory, are dropped in time, and do not hold up the end."""
    with (
        running_server("--model", str(large_bundle), "--no-grpc", "--write-timeout", "4") as server,
        ExitStack() as all_,
    ):
        assert requests.post(f"{server.http}/v1/classify", data=jpeg, timeout=60).status_code == 200
        url = f"{server.http}/v1/models/large/files/{FILE}"
        assert len(requests.get(url, timeout=60).content) == 8 * MIB
        with watched(server) as found:
            connections = [all_.enter_context(client(server)) for _ in range(CLIENTS)]
            for connection in connections:
                connection.sendall(get(f"/v1/models/large/files/{FILE}"))
            time.sleep(2)
            assert len(requests.get(url, timeout=60).content) == 8 * MIB
        assert found.grown_mb < 150
        assert found.longest_answer < 3
        end = time.monotonic() + 40
        while active(server) > 1:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert len(read_to_end(connections[0])) < 8 * MIB  # it was dropped
        for _ in range(20):
            all_.enter_context(client(server)).sendall(get(f"/v1/models/large/files/{FILE}"))
        time.sleep(1)
        start = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - start < 25  # before: longer than the 30 seconds of --drain-timeout


def test_a_slow_client_gets_the_whole_answer(large_bundle: Path) -> None:
    with running_server("--model", str(large_bundle), "--no-grpc", "--write-timeout", "2") as server:
        with client(server, buffer=2**16) as connection:
            connection.sendall(
                get(f"/v1/models/large/files/{FILE}").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            )
            received = bytearray()
            end = time.monotonic() + 6  # slowly for longer than the server waits for one that reads nothing
            while part := connection.recv(2**16):
                received += part
                if time.monotonic() < end:
                    time.sleep(0.1)
        assert received.endswith(bytes(8 * MIB))


def test_many_requests_whose_answers_nobody_reads(server: ServerProcess) -> None:
    """The server stops reading requests when it cannot send their answers."""
    with client(server) as connection:
        connection.settimeout(2)
        requests_ = get("/openapi.json") * 500
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 16 * MIB:
                sent += connection.send(requests_)
        assert sent < 16 * MIB
    assert requests.get(f"{server.http}/healthz", timeout=60).status_code == 200


def at_once(talk: Callable[..., None], *calls: tuple[Any, ...]) -> None:
    """Call ``talk`` with each of ``calls``, all at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for done in [pool.submit(talk, *call) for call in calls]:
            done.result()


def test_a_client_that_closes_its_sending_side_has_gone(tiny_bundle: Bundle, jpeg: bytes) -> None:
    slow = encoded(picture(2400, 1800), "PNG", compress_level=1)
    with running_server(str(tiny_bundle.path), program=("-c", IMPATIENT)) as server:

        def talk(sent: bytes) -> None:
            with client(server, buffer=MIB) as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                assert read_to_end(connection)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 499")

        at_once(talk, (post(slow),), (post(jpeg)[:-10],), (get("/healthz")[:-2],), (b"",))


def test_a_connection_without_a_whole_request_ends(tiny_bundle: Bundle) -> None:
    """It says nothing, sends its headers slowly, or after an answer sends on a body that does not end."""
    with running_server(str(tiny_bundle.path), program=("-c", IMPATIENT)) as server:

        def talk(start: bytes, part: bytes) -> None:
            with client(server, buffer=MIB) as connection:
                connection.settimeout(0.1)
                connection.sendall(start)
                end = time.monotonic() + 20
                with contextlib.suppress(ConnectionError):
                    while not has_ended(connection):
                        assert time.monotonic() < end, (start, part)
                        connection.sendall(part)

        at_once(
            talk,
            (b"", b""),
            (b"GET /healthz HTTP/1.1\r\n", b"X: 1\r\n"),
            (get("/healthz") + b"GET /healthz HTTP/1.1\r\n", b"X: 1\r\n"),
            (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", b"d"),
            (b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nd\r\n"),
        )


def test_a_client_over_http_2_that_takes_nothing_in(large_bundle: Path) -> None:
    """It opens no window for the answer, though TCP would have room."""
    h2 = pytest.importorskip("h2.connection", reason="h2, which speaks HTTP/2 here, is not installed")
    with running_server("--model", str(large_bundle), "--no-grpc", "--write-timeout", "3") as server:
        with client(server, buffer=MIB) as connection:
            other = h2.H2Connection()
            other.initiate_connection()
            asked = {":method": "GET", ":scheme": "http", ":authority": "localhost"}
            other.send_headers(1, [*asked.items(), (":path", f"/v1/models/large/files/{FILE}")], end_stream=True)
            connection.sendall(other.data_to_send())
            for others in (1, 0):
                end = time.monotonic() + 30
                while active(server) != 1 + others:
                    assert time.monotonic() < end
                    time.sleep(0.05)
        assert server.terminate() == 0


def active(server: ServerProcess) -> float:
    """Requests in hand, this one too."""
    text = requests.get(f"{server.http}/metrics", timeout=60).text
    return float(text.partition('\nghostzoo_requests_active{protocol="http"} ')[2].split()[0])


def test_a_body_without_end_that_is_refused(server: ServerProcess) -> None:
    """As fast as it is taken; the client hears why, and then the connection ends."""
    with client(server, buffer=MIB) as connection:
        connection.settimeout(0.1)
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        end = time.monotonic() + 40
        heard = b""
        with contextlib.suppress(ConnectionError):
            while True:
                assert time.monotonic() < end
                with contextlib.suppress(TimeoutError):
                    connection.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
                with contextlib.suppress(TimeoutError):
                    heard += connection.recv(2**16) if not heard else b""
        assert heard.startswith(b"HTTP/1.1 404 ")
    end = time.monotonic() + 30
    while not [line for line in server.log() if line.get("path") == "/nothing"]:
        assert time.monotonic() < end


IMPATIENT = """
import sys
from ghostzoo.serve import server
from ghostzoo.serve.options import ServeOptions
server._IDLE_SECONDS = 1.0
server.serve(ServeOptions(models=(sys.argv[1],), port=0, grpc_port=None))
"""


def has_ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(2**16) == b""
    except TimeoutError:
        return False

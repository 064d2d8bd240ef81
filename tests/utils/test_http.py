from __future__ import annotations

import gzip
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ghostzoo._utils.http import Download, DownloadError, download_bytes
from tests.fixtures.limited import run_limited
from tests.fixtures.server import Answer, content, drip, redirect, serve

BODY = bytes(range(256)) * 1000
CLIENT_LEFT = threading.Event()
MOVED = (301, 302, 303, 307, 308)


def drip_until_left(request: BaseHTTPRequestHandler) -> None:
    drip(request)
    CLIENT_LEFT.set()


def drip_headers(request: BaseHTTPRequestHandler) -> None:
    """One header that does not end: not even the number of headers that are read is an end to it."""
    drip(request, b"HTTP/1.0 200 OK\r\nX: ")
    CLIENT_LEFT.set()


def drip_redirect(request: BaseHTTPRequestHandler) -> None:
    request.send_response(302)
    request.send_header("Location", "/drip")
    request.end_headers()
    with suppress(ConnectionError):
        request.wfile.write(bytes(1000))
        drip(request)


@cache
def stacked(layers: int) -> bytes:
    """300 MB of zeros, compressed so many times."""
    if layers > 1:
        return gzip.compress(stacked(layers - 1))
    packer = zlib.compressobj(wbits=31)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(300)) + packer.flush()


def bomb(layers: int, **headers: Any) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        content(stacked(layers), content_encoding=", ".join(["gzip"] * layers), **headers)(request)

    return answer


def bomb_in_one_chunk(request: BaseHTTPRequestHandler) -> None:
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(stacked(3)), stacked(3))
    headers = {"content_encoding": "gzip, gzip, gzip", "transfer_encoding": "chunked"}
    content(body, with_length=False, **headers)(request)


def long_headers(request: BaseHTTPRequestHandler) -> None:
    """As many and as long as Python's client reads."""
    with suppress(ConnectionError):
        request.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 65500) for n in range(98)))
        request.wfile.write(b"Content-Length: 5\r\n\r\nwhole")


def many_heads(request: BaseHTTPRequestHandler) -> None:
    with suppress(ConnectionError):
        while True:
            request.wfile.write(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 1000)


def endless_line(*before: bytes) -> Answer:
    """A line of 300 MB among the parts of a body."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        with suppress(ConnectionError):
            request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(before))
            for _ in range(300):
                request.wfile.write(b"0" * 1_000_000)

    return answer


def silence(request: BaseHTTPRequestHandler) -> None:
    request.connection.settimeout(20)
    request.connection.recv(1)  # until the client goes


def broken_off(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(BODY)))
    request.end_headers()
    request.wfile.write(BODY[:1000])


def reset(request: BaseHTTPRequestHandler) -> None:
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()


def names_its_agent(request: BaseHTTPRequestHandler) -> None:
    content(request.headers["User-Agent"].encode())(request)


ROUTES = {
    "/body": content(BODY),
    "/no-length": content(BODY, with_length=False),
    "/empty": content(b""),
    "/gzip": content(gzip.compress(BODY), content_encoding="gzip"),
    "/bomb": content(gzip.compress(bytes(50_000_000)), content_encoding="gzip"),
    "/bombs": bomb(3),
    "/bombs-in-one-chunk": bomb_in_one_chunk,
    "/long-headers": long_headers,
    "/many-heads": many_heads,
    "/endless-size": endless_line(),
    "/endless-trailer": endless_line(b"5\r\nwhole\r\n0\r\n"),
    "/six-bombs": bomb(6),
    "/bomb-that-redirects": bomb(1, status=302, location="/body"),
    "/bad-gzip": content(b"no gzip at all", content_encoding="gzip"),
    "/agent": names_its_agent,
    "/drip": drip_until_left,
    "/drip-headers": drip_headers,
    "/drip-redirect": drip_redirect,
    "/silence": silence,
    "/broken-off": broken_off,
    "/reset": reset,
    "/no-content": content(b"", status=204),
    "/forbidden": content(b"<html>no</html>", status=403),
    "/hop": redirect("/body"),
    "/hop-hop": redirect("/hop", 307),
    **{f"/moved/{status}": redirect("/body", status) for status in MOVED},
    "/circle": redirect("/circle"),
    "/to-file": redirect("file:///etc/hostname"),
    "/to-ftp": redirect("FTP://127.0.0.1/x"),
    "/to-data": redirect("data:text/plain,hello"),
    "/to-nonsense": redirect("http://[::1/x"),
    "/to-nowhere": content(b"", status=302),
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve(ROUTES) as place:
        yield place


def fetch(url: str, *, max_bytes: int = 1_000_000, timeout: float = 30, max_redirects: int = 5) -> bytes:
    return download_bytes(url, max_bytes=max_bytes, timeout=timeout, max_redirects=max_redirects)


@pytest.mark.parametrize(
    "path",
    ["/body", "/no-length", "/gzip", "/body?size=large&x=%20", "/hop-hop", *(f"/moved/{status}" for status in MOVED)],
)
def test_what_is_served_is_what_comes(address: str, path: str) -> None:
    assert fetch(address + path) == BODY


def test_an_empty_body_is_empty(address: str) -> None:
    assert fetch(address + "/empty") == b""


def test_it_says_who_asks(address: str) -> None:
    assert fetch(address + "/agent").startswith(b"ghostzoo/")


@pytest.mark.parametrize("path", ["/body", "/no-length", "/gzip"])
def test_the_size_limit_is_exact(address: str, path: str) -> None:
    assert len(fetch(address + path, max_bytes=len(BODY))) == len(BODY)
    with pytest.raises(DownloadError, match=f"more than the {len(BODY) - 1} bytes that are read"):
        fetch(address + path, max_bytes=len(BODY) - 1)


def test_what_is_said_to_be_too_large_is_not_waited_for() -> None:
    def never(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100001")
        request.end_headers()
        request.connection.recv(1)

    with serve({"/": never}) as address, pytest.raises(DownloadError, match="more than the 100000 bytes"):
        fetch(address + "/", max_bytes=100_000)


def test_a_compressed_bomb_counts_as_what_it_becomes(address: str) -> None:
    with pytest.raises(DownloadError, match="more than the 100000 bytes"):
        fetch(address + "/bomb", max_bytes=100_000)


HEADS = ["/long-headers", "/many-heads", "/endless-size", "/endless-trailer"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by /proc, which is not here")
@pytest.mark.parametrize("path", ["/bombs", "/bombs-in-one-chunk", "/six-bombs", "/bomb-that-redirects", *HEADS])
def test_no_bomb_takes_more_than_the_limit(address: str, path: str) -> None:
    code = """
import sys
from ghostzoo._utils.http import DownloadError, download_bytes
try:
    print(len(download_bytes(sys.argv[1], max_bytes=100_000_000, timeout=60, max_redirects=1)))
except DownloadError as error:
    print(error)
print("peak", int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) // 1024)
"""
    ended = run_limited(code, address + path)
    assert ended.returncode == 0, ended.stderr
    told = {
        "/six-bombs": "too many content encodings",
        "/bomb-that-redirects": str(len(BODY)),
        **dict.fromkeys(HEADS, "headers have more than 65536 bytes|exceeded maximum"),
    }
    assert re.search(told.get(path, "more than the 100000000 bytes"), ended.stdout.lower())
    # The limit, and what a growing buffer and Python take.
    assert int(ended.stdout.split()[-1]) < (60 if path in HEADS else 220)


@pytest.mark.parametrize("path", ["/drip", "/drip-headers", "/drip-redirect", "/silence"])
def test_time_is_limited_for_everything_together(address: str, path: str) -> None:
    with pytest.raises(DownloadError, match=r"did not arrive in time"):
        fetch(address + path, timeout=0.3)


@pytest.mark.parametrize("path", ["/drip", "/drip-headers"])
def test_a_late_download_is_given_up_and_not_only_left_alone(address: str, path: str) -> None:
    CLIENT_LEFT.clear()
    with pytest.raises(DownloadError, match="in time"):
        fetch(address + path, timeout=0.3)
    assert CLIENT_LEFT.wait(30)


def test_a_download_that_nobody_gives_up_ends_in_time_too() -> None:
    def stream(request: BaseHTTPRequestHandler) -> None:
        pause = threading.Event()
        with suppress(ConnectionError):
            request.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
            while not pause.wait(0.02):
                request.wfile.write(bytes(2**18))

    with serve({"/": stream}) as address:
        download = Download(address + "/", max_bytes=2**26, timeout=0.3, max_redirects=0)
        download.start()
        assert download.ended.wait(60)
    with pytest.raises(DownloadError, match="in time"):
        download.result()


def test_a_connection_that_nobody_accepts_is_given_up() -> None:
    """The system itself would try it for minutes, and keep a thread for so long."""
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as waiting:
        for _ in range(4):  # more than wait at the door
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        with pytest.raises(DownloadError, match="time"):
            download_bytes(f"http://127.0.0.1:{server.getsockname()[1]}/", max_bytes=10, timeout=1.0, max_redirects=0)
        end = time.monotonic() + 60
        while threading.active_count() > before and time.monotonic() < end:
            time.sleep(0.05)
        assert threading.active_count() <= before


def test_the_redirects_limit_is_exact(address: str) -> None:
    assert fetch(address + "/hop-hop", max_redirects=2) == BODY
    with pytest.raises(DownloadError, match="redirects more than 1 times"):
        fetch(address + "/hop-hop", max_redirects=1)
    with pytest.raises(DownloadError, match="redirects more than 5 times"):
        fetch(address + "/circle")
    assert fetch(address + "/body", max_redirects=0) == BODY


@pytest.mark.parametrize("path", ["/to-file", "/to-ftp", "/to-data"])
def test_a_redirect_leads_to_nothing_but_the_web(address: str, path: str) -> None:
    with pytest.raises(DownloadError, match=r"leads to (file|ftp|data):.*only http and https"):
        fetch(address + path)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_nothing_but_the_web_is_read(url: str) -> None:
    with pytest.raises(DownloadError, match="only http and https"):
        fetch(url)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nothing-here", "answered 404"),
        ("/forbidden", "answered 403"),
        ("/no-content", "answered 204"),
        ("/to-nowhere", "answered 302"),
        ("/bad-gzip", "cannot be downloaded"),
        ("/to-nonsense", "not a valid URL"),
        ("/reset", "cannot be downloaded"),
        ("/broken-off", "broke|cannot be downloaded"),
    ],
)
def test_each_failure_is_one_sentence(address: str, path: str, message: str) -> None:
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(f"{address}{path}?token=secret")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[::1",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/",
        "http://user:secret@:80/",
        "http://user:secret@a\u2100b/",
        "http://user:secret@127.0.0.1:1/x",
        f"http://{'a' * 70}.invalid/",
        "http://\0/",
        "http://a b/",
        "http://*.invalid/",
    ],
)
def test_an_address_without_a_server_is_a_download_error(url: str) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(url, timeout=20)
    assert "secret" not in str(caught.value)

"""What the server says on stderr: JSON only, whoever says it, and never at the price of an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
import requests

from ghostzoo.bundle.folder import Bundle
from ghostzoo.serve.server import on_loop_error
from tests.fixtures.limited import run_limited
from tests.fixtures.pictures import encoded, picture
from tests.fixtures.serving import running_server

pytestmark = pytest.mark.slow

END = b"\r\nHost: localhost\r\n\r\n"


def png_with(kind: bytes, content: bytes, crc_error: int = 0) -> bytes:
    """A PNG with one more chunk behind its header."""
    png = encoded(picture(90, 70), "PNG")
    crc = zlib.crc32(kind + content) ^ crc_error
    return png[:33] + struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc) + png[33:]


def pictures_that_decoders_complain_of() -> list[bytes]:
    whole = {kind: encoded(picture(90, 70), kind) for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP")}
    return [
        png_with(b"tEXt", b"a\0b", crc_error=1),
        png_with(b"pHYs", b"\0"),
        png_with(b"iCCP", b"x\n\r\0\0" + zlib.compress(b"junk")),
        png_with(b"zzzz", bytes(9), crc_error=1),
        *(data[: len(data) * 2 // 3] for data in whole.values()),
        whole["JPEG"][:-40] + bytes(38) + b"\xff\xd9",
    ]


def test_every_line_is_json_whatever_is_sent(tiny_bundle: Bundle, http: requests.Session) -> None:
    garbage = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),  # the start of TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x7f\1\4\0\0\0\1" + bytes(127),
        b"GET / HTTP/9.9" + END,
        b"GET /\xff\xfe HTTP/1.1" + END,
        b"POST /v1/classify HTTP/1.1\r\nContent-Length: -1" + END,
        b"POST /v1/classify HTTP/1.1\r\nTransfer-Encoding: chunked" + END + b"zz\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade" + END,
        bytes(5000),
    ]
    with running_server("--model", str(tiny_bundle.path)) as server:
        grpc_port = int(str(server.grpc).rpartition(":")[2])
        for address in (server.host_and_port, ("127.0.0.1", grpc_port)):
            for data in garbage:
                with socket.create_connection(address, timeout=30) as connection:
                    connection.sendall(data)
                    connection.settimeout(0.2)
                    try:
                        while connection.recv(65536):
                            pass
                    except OSError:
                        pass
        for index, image in enumerate(pictures_that_decoders_complain_of()):
            headers = {"X-Request-ID": f"image-{index}"}
            assert http.post(f"{server.http}/v1/classify", data=image, headers=headers).status_code in (200, 422)
        http.get(f"{server.http}/healthz", headers={"X-Request-ID": "the-last"})
        assert server.lines_with(request_id="the-last")
        told = [line for line in server.log() if "Corrupt JPEG data" in line.get("decoder", "")]
        assert [line["request_id"].startswith("image-") for line in told] == [True]
        assert server.terminate() == 0
        text = server.log_file.read_text()
        assert text.endswith("\n")
        for line in text.splitlines():
            assert isinstance(json.loads(line), dict), line


def test_a_log_that_nobody_reads_costs_no_answer(tiny_bundle: Bundle, jpeg: bytes) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "ghostzoo", "serve", "--model", str(tiny_bundle.path), "--no-grpc", "--port", "0"]
    process = subprocess.Popen([*command, "--drain-timeout", "10"], stderr=writing)
    try:
        url = _first_address(reading)
        with requests.Session() as session:
            _flood(url, "/" + "x" * 490, 4000)  # more than the pipe and the queue hold
            damaged = png_with(b"tEXt", b"a\0b", crc_error=1)
            for image in [damaged] * 20 + [jpeg]:
                assert session.post(f"{url}/v1/classify", data=image, timeout=20).status_code == 200
            metrics = session.get(f"{url}/metrics", timeout=20).text
            dropped = float(metrics.partition("\nghostzoo_log_lines_dropped_total ")[2].partition("\n")[0])
            assert dropped > 0
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert time.monotonic() - start < 30
    finally:
        process.kill()
        process.wait()
        os.close(writing)
        os.close(reading)


def _first_address(descriptor: int) -> str:
    text = b""
    while b"\n" not in text:
        text += os.read(descriptor, 1)
    return str(json.loads(text)["http"])


def _flood(url: str, path: str, count: int) -> None:
    """Send many requests on one connection, and read all their answers."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with socket.create_connection((host, int(port)), timeout=60) as connection, connection.makefile("rb") as answer:
        for _ in range(count):
            connection.sendall(request)
            assert answer.readline().split()[1] == b"404"
            length = 0
            while (line := answer.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            answer.read(length)


def test_dropped_lines_are_told_once_somebody_reads_again() -> None:
    code = """
import logging, os, shutil, sys, threading, time
from ghostzoo.serve.logs import log_lines
reading, writing = os.pipe()
os.dup2(writing, 2)
os.close(writing)
reader = threading.Thread(target=lambda: shutil.copyfileobj(open(reading, "rb"), sys.stdout.buffer))
logger = logging.getLogger("ghostzoo")
with log_lines() as lines:
    for _ in range(9000):
        logger.info("x" * 400)
    assert lines.dropped > 0
    reader.start()
    count = 9000
    while True:
        count += 1
        dropped = lines.dropped
        logger.info("again")
        if lines.dropped == dropped:
            break
        time.sleep(0.01)
os.close(2)
reader.join()
print(count)
"""
    ended = run_limited(code)
    assert ended.returncode == 0
    *lines, count = ended.stdout.splitlines()
    found = [json.loads(line) for line in lines]
    told = sum(line.get("dropped", 0) for line in found)
    assert told > 0
    assert told + sum(line["logger"] == "ghostzoo" for line in found) == int(count)
    assert any(line["message"] == "again" for line in found)


@pytest.mark.parametrize("stderr", ["pipe", "closed"])
def test_all_that_python_and_c_write_becomes_json(stderr: str) -> None:
    code = """
import asyncio, logging, os, sys, threading, warnings
if sys.argv[1] == "closed":
    os.close(2)
from ghostzoo.serve.logs import log_lines
with log_lines() as lines:
    os.write(2, b"from C\\nsecond \\xff line\\r\\n\\n  \\nno end")
    os.write(2, b" of line\\n")
    print("printed", file=sys.stderr)
    warnings.warn("a warning")
    logging.getLogger("some.library").warning("a library")
    logging.getLogger("some.library").info("nobody asked")
    thread = threading.Thread(target=lambda: 1 / 0, name="failing")
    thread.start()
    thread.join()
    async def forget():
        asyncio.get_running_loop().call_soon(lambda: {}["missing"])
        await asyncio.sleep(0.01)
    asyncio.run(forget())
    class Bad:
        def __del__(self):
            raise ValueError("from del")
    Bad()
    os.write(2, b"without an end")
os.write(2, b"as before\\n")
"""
    command = [sys.executable, "-c", code, stderr]
    ended = subprocess.run(command, capture_output=True, timeout=60, cwd=Path(__file__).parents[2])
    assert ended.returncode == 0, ended.stderr
    if stderr == "closed":
        assert ended.stderr == b""
        return
    *lines, last = ended.stderr.decode().splitlines()
    assert last == "as before"
    found = [json.loads(line) for line in lines]
    messages = [(line["logger"], line["message"]) for line in found]
    for expected in (
        ("native", "from C"),
        ("native", "second \\xff line"),
        ("native", "no end of line"),
        ("native", "printed"),
        ("native", "without an end"),
        ("some.library", "a library"),
        ("ghostzoo.serve.logs", "Thread failing failed."),
    ):
        assert expected in messages
    assert not any("nobody asked" in message for _, message in messages)
    assert any(logger == "py.warnings" and "a warning" in message for logger, message in messages)
    for logger, error in (
        ("asyncio", "KeyError"),
        ("ghostzoo.serve.logs", "ZeroDivisionError"),
        ("ghostzoo.serve.logs", "from del"),
    ):
        assert any(line["logger"] == logger and error in line.get("exception", "") for line in found), messages


def test_c_code_that_holds_pythons_lock_is_never_made_to_wait() -> None:
    code = """
import ctypes, os, time
from ghostzoo.serve.logs import log_lines
write = ctypes.PyDLL(None).write  # holds Python's lock, so that nothing reads meanwhile
text = b"a warning of a decoder\\n" * 100
with log_lines() as lines:
    for _ in range(2000):
        write(2, text, len(text))
    os.write(2, b"\\n" + b"y" * 300_000)
    time.sleep(1.5)
    os.write(2, b"\\nafter\\n")
"""
    ended = run_limited(code)
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stderr.splitlines()]
    warned = [line for line in found if line["message"] == "a warning of a decoder"]
    assert 0 < len(warned) <= 500  # a hundred a second, however many there are
    assert sum(line.get("dropped", 0) for line in found) > 500
    assert any(line["message"] == "after" for line in found)
    assert all(len(line["message"]) <= 2000 for line in found)


FILL_STDERR = """
import os
reading, writing = os.pipe()
os.dup2(writing, 2)
os.set_blocking(2, False)
try:
    while True:
        os.write(2, bytes(4096))
except BlockingIOError:
    os.set_blocking(2, True)
"""


def test_a_crash_is_told_on_the_real_stderr_and_ends_the_process() -> None:
    crash = """
import ctypes
from ghostzoo.serve.logs import log_lines
with log_lines():
    ctypes.string_at(0)
"""
    ended = run_limited(crash)
    assert ended.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in ended.stderr
    assert run_limited(FILL_STDERR + crash).returncode == -signal.SIGSEGV


def test_a_fault_of_the_server_itself_is_json(tiny_bundle: Bundle) -> None:
    code = """
import sys
from ghostzoo.serve import server
from ghostzoo.serve.options import ServeOptions
server.http_config = None
server.serve(ServeOptions(models=(sys.argv[1],), port=0, grpc_port=None))
"""
    ended = run_limited(code, tiny_bundle.path, memory_mb=16384)
    assert ended.returncode == 1
    line = [json.loads(line) for line in ended.stderr.splitlines()][-1]
    assert (line["level"], line["message"]) == ("critical", "The server has failed.")
    assert "TypeError" in line["exception"]


def test_an_error_at_the_start_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ghostzoo", "serve", "--model", str(tmp_path), "--port", "0", "--grpc-port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(("error", "told"), [(TimeoutError(110, "timed out"), False), (ZeroDivisionError(), True)])
def test_a_client_that_the_system_drops_is_no_error(
    error: Exception, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Hypercorn waits for the end of each connection, and lets through what it ended with."""

    async def drop() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(on_loop_error)
        loop.call_exception_handler({"message": "Unhandled", "exception": error, "transport": object()})

    asyncio.run(drop())
    assert bool([each for each in caplog.records if each.levelno >= logging.WARNING]) == told

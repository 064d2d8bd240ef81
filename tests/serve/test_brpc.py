"""bRPC's packets, as clients of Paddle Serving's C++ server send them, against a real server."""

from __future__ import annotations

import base64
import gzip
import os
import signal
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.images.decode import read_image
from ghostzoo.images.transform import preprocess
from tests.fixtures.brpc import message
from tests.fixtures.serving import ServerProcess, running_server

pytestmark = pytest.mark.slow
KEY = "0123456789abcdef-test"
SERVICE = "baidu.paddle_serving.predictor.general_model.GeneralModelService"


@pytest.fixture(scope="module")
def address(tiny_bundle: Bundle) -> Iterator[tuple[str, int]]:
    limits = ("--brpc-port", "0", "--max-body-mb", "4", "--max-images", "8")
    with running_server("--model", str(tiny_bundle.path), *limits, env={"GHOSTZOO_API_KEY": KEY}) as process:
        yield place_of(process)


def place_of(process: ServerProcess) -> tuple[str, int]:
    (line,) = process.lines_with(message="ghostzoo serves")
    host, _, port = line["brpc"].rpartition(":")
    return host, int(port)


def packet(data: bytes, key: str = KEY, method: str = "inference", service: str = SERVICE, **fields: Any) -> bytes:
    meta = message("RpcMeta")(correlation_id=7, authentication_data=key.encode(), **fields)
    meta.request.service_name, meta.request.method_name, meta.request.log_id = service, method, 9
    meta.request.trace_id = 2**60
    encoded = meta.SerializeToString()
    return struct.pack(">4sII", b"PRPC", len(encoded) + len(data), len(encoded)) + encoded + data


def read_answer(connection: socket.socket) -> tuple[Any, bytes]:
    with connection.makefile("rb") as file:
        magic, size, meta_size = struct.unpack(">4sII", file.read(12))
        assert magic == b"PRPC"
        body = file.read(size)
    answer = message("RpcMeta").FromString(body[:meta_size])
    assert answer.correlation_id == 7
    return answer.response, body[meta_size:]


def ask(address: tuple[str, int], data: bytes, **changes: Any) -> tuple[Any, bytes]:
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(packet(data, **changes))
        return read_answer(connection)


def scores(data: bytes, name: str = "prediction") -> Any:
    (output,) = message("Response").FromString(data).outputs
    (tensor,) = output.tensor
    assert (output.engine_name, tensor.elem_type, tensor.name, tensor.alias_name) == ("general_infer_0", 1, name, name)
    values = np.frombuffer(tensor.tensor_content, "<f4").reshape(tuple(tensor.shape))
    np.testing.assert_array_equal(values.ravel(), tensor.float_data)
    return values


def test_images_in_each_form_get_scores(address: tuple[str, int], tiny_bundle: Bundle, jpeg: bytes) -> None:
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime", threads=1) as classifier:
        expected = classifier.probabilities([jpeg])
        pixels = preprocess(read_image(jpeg), tiny_bundle.preprocessing)
    request, tensor = message("Request"), message("Tensor")
    plain = request(tensor=[tensor(elem_type=20, data=[jpeg], shape=[1])], fetch_var_names=["prediction"])
    shape = pixels.reshape(3, *pixels.shape[-2:]).shape
    forms = {"raw": plain, "base64": request(tensor=[tensor(elem_type=20, data=[base64.b64encode(jpeg)])])}
    forms["content"] = request(tensor=[tensor(elem_type=1, shape=shape, tensor_content=pixels.tobytes())])
    forms["packed"] = request(tensor=[tensor(elem_type=1, shape=shape, float_data=pixels.ravel().tolist())])
    encoded = {name: form.SerializeToString() for name, form in forms.items()}
    one_by_one = b"".join(b"\x15" + value.tobytes() for value in pixels.ravel())
    head = tensor(elem_type=1, shape=shape).SerializeToString() + one_by_one
    size, digits = len(head), b""
    while size:
        digits, size = digits + bytes([size & 127 | (128 if size > 127 else 0)]), size >> 7
    encoded["one by one"] = b"\x0a" + digits + head
    for name, data in encoded.items():
        response, body = ask(address, data)
        assert response.error_code == 0, (name, response.error_text)
        np.testing.assert_allclose(scores(body), expected, atol=1e-5, err_msg=name)
    for number, compress in ((2, gzip.compress), (3, zlib.compress)):
        _, body = ask(address, compress(encoded["raw"]), compress_type=number)
        np.testing.assert_allclose(scores(body), expected, atol=1e-5)
    _, body = ask(address, encoded["raw"] + b"what is attached", attachment_size=16)
    np.testing.assert_allclose(scores(body), expected, atol=1e-5)
    named = request(tensor=plain.tensor, fetch_var_names=["save_infer_model/scale_0.tmp_0"], log_id=2**63 + 5)
    _, body = ask(address, named.SerializeToString())
    np.testing.assert_allclose(scores(body, "save_infer_model/scale_0.tmp_0"), expected, atol=1e-5)
    assert message("Response").FromString(body).log_id == 2**63 + 5


def test_refusals_have_brpcs_codes(address: tuple[str, int], jpeg: bytes) -> None:
    request, tensor = message("Request"), message("Tensor")
    good = request(tensor=[tensor(elem_type=20, data=[jpeg])]).SerializeToString()
    bad = request(tensor=[tensor(elem_type=20, data=[b"no image"])]).SerializeToString()
    many = request(tensor=[tensor(elem_type=20, data=[jpeg] * 9)]).SerializeToString()
    twice = request(tensor=[tensor(elem_type=20, data=[jpeg])] * 2).SerializeToString()
    wide = request(tensor=[tensor(elem_type=20, data=[jpeg])], fetch_var_names=["a", "b"]).SerializeToString()
    whole = request(tensor=[tensor(elem_type=0, shape=[3, 64, 64])]).SerializeToString()
    for code, text, given in (
        (1004, "requires its API key", {"data": good, "key": "wrong"}),
        (1002, "no method", {"data": good, "method": "debug"}),
        (1003, "Compression 1 is not read", {"data": good, "compress_type": 1}),
        (1003, "larger than the 4194304 bytes", {"data": bytes(5 * 2**20)}),
        (1001, "no service 'other'", {"data": good, "service": "other"}),
        (1003, "from 1 to 8", {"data": many}),
        (1003, "takes one input, images or pixels, not 2", {"data": twice}),
        (1003, "takes one input, images or pixels, not 0", {"data": b""}),
        (1003, "fetch one, not 2", {"data": wide}),
        (1003, "must be FP32", {"data": whole}),
        (1003, "Image 0", {"data": bad}),
        (1003, "cannot be decoded", {"data": b"\xff" * 20}),
        (1003, "fields", {"data": b"\x0a\x00" * 1_000_000}),
    ):
        response, _ = ask(address, **given)
        assert (response.error_code, text in response.error_text) == (code, True), response.error_text


@pytest.fixture(scope="module")
def hostile(tiny_bundle: Bundle) -> Iterator[ServerProcess]:
    """A server with tight limits, and without a key."""
    limits = (
        "--max-body-mb",
        "4",
        "--queue-size",
        "24",
        "--max-images",
        "8",
        "--deadline",
        "3",
        "--write-timeout",
        "2",
    )
    with running_server("--model", str(tiny_bundle.path), "--brpc-port", "0", *limits) as process:
        yield process


def is_well(process: ServerProcess, jpeg: bytes) -> bool:
    data = message("Request")(tensor=[message("Tensor")(elem_type=20, data=[jpeg])]).SerializeToString()
    return bool(ask(place_of(process), data)[0].error_code == 0)


def resident_mb(process: ServerProcess) -> float:
    pages = int(Path(f"/proc/{process.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def send_until_dropped(connection: socket.socket, data: bytes) -> int:
    """Return how many bytes the other side took; one that takes them for a minute fails the test."""
    sent, end = 0, time.monotonic() + 60
    while time.monotonic() < end:
        try:
            sent += connection.send(data)
        except ConnectionError:
            return sent
    raise AssertionError("the connection still stands")


BIG = 2**32 - 1
PACKETS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "bad magic": b"PRPX" + packet(b"x")[4:],
    "a meta beyond its packet": struct.pack(">4sII", b"PRPC", 10, 11) + b"x" * 11,
    "a meta of 4 GiB": struct.pack(">4sII", b"PRPC", BIG, BIG) + b"x" * 1000,
    "a meta that is none": struct.pack(">4sII", b"PRPC", 50, 50) + b"\xff" * 50,
    "half a head": b"PRPC\0\0",
    "half a meta": packet(b"x" * 100)[:30],
    "half a message": packet(b"x" * 100)[:-50],
    "nothing": b"",
}


@pytest.mark.parametrize("name", PACKETS)
def test_what_is_no_request_ends_its_connection(hostile: ServerProcess, jpeg: bytes, name: str) -> None:
    with socket.create_connection(place_of(hostile), timeout=30) as connection:
        connection.sendall(PACKETS[name])
        connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):  # closed with something unread
            assert connection.recv(100) == b""
    assert is_well(hostile, jpeg)


@pytest.mark.parametrize(
    ("code", "text", "data"),
    [
        (1003, "larger than", packet(b"")[:4] + struct.pack(">I", BIG) + packet(b"")[8:] + b"x" * 2**20),
        (1003, "larger than", packet(gzip.compress(bytes(200 * 2**20)), compress_type=2)),
        (1003, "cannot be", packet(b"no gzip", compress_type=2)),
        (1003, "attachment is larger", packet(b"x", attachment_size=2)),
        (1003, "attachment is larger", packet(b"x", attachment_size=-1)),
        (1008, "deadline", packet(b"x" * 1000)[:-1]),
    ],
    ids=["a huge length", "a gzip bomb", "no gzip", "attachment", "negative attachment", "a slow message"],
)
def test_hostile_messages_are_answered_and_bounded(
    hostile: ServerProcess, jpeg: bytes, code: int, text: str, data: bytes
) -> None:
    assert is_well(hostile, jpeg)
    before = resident_mb(hostile)
    with socket.create_connection(place_of(hostile), timeout=30) as connection:
        connection.sendall(data)
        response, _ = read_answer(connection)
    assert (response.error_code, text in response.error_text) == (code, True), response.error_text
    assert is_well(hostile, jpeg)
    assert resident_mb(hostile) < before + 40


def test_an_endless_message_is_cut_off(hostile: ServerProcess, jpeg: bytes) -> None:
    before = resident_mb(hostile)
    endless = packet(b"")[:4] + struct.pack(">I", BIG) + packet(b"")[8:]
    with socket.create_connection(place_of(hostile), timeout=30) as connection:
        connection.sendall(endless)
        assert send_until_dropped(connection, bytes(2**16)) > 2**20
    assert resident_mb(hostile) < before + 40
    assert is_well(hostile, jpeg)


def test_a_client_that_reads_nothing_is_dropped(hostile: ServerProcess, jpeg: bytes) -> None:
    before = resident_mb(hostile)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(place_of(hostile))
        send_until_dropped(connection, packet(b"", method="x" * 200) * 1000)
    assert resident_mb(hostile) < before + 40
    assert is_well(hostile, jpeg)


def test_connections_beyond_the_queue_are_closed(hostile: ServerProcess, jpeg: bytes) -> None:
    before = resident_mb(hostile)
    with ExitStack() as stack:
        made = [stack.enter_context(socket.create_connection(place_of(hostile), timeout=10)) for _ in range(60)]
        for connection in made:
            with suppress(ConnectionError):
                connection.sendall(packet(b"", method="x"))
        codes = []
        for connection in made:
            with suppress(ConnectionError, struct.error):
                codes.append(read_answer(connection)[0].error_code)
    assert codes == [1002] * 24
    assert resident_mb(hostile) < before + 40
    for _ in range(50):
        with suppress(ConnectionError, struct.error):
            assert is_well(hostile, jpeg)
            return
        time.sleep(0.1)
    pytest.fail("no connection was taken any more")


def test_requests_under_way_are_answered_on_sigterm(tiny_bundle: Bundle, jpeg: bytes) -> None:
    data = message("Request")(tensor=[message("Tensor")(elem_type=20, data=[jpeg] * 8)]).SerializeToString()
    with (
        running_server("--model", str(tiny_bundle.path), "--brpc-port", "0") as process,
        ExitStack() as stack,
    ):
        address = place_of(process)
        made = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(6)]
        idle = stack.enter_context(socket.create_connection(address, timeout=60))
        for connection in made:
            connection.sendall(packet(data, key="")[:-1000])
        for _ in range(600):
            if (
                'ghostzoo_requests_active{protocol="brpc"} 6.0'
                in requests.get(f"{process.http}/metrics", timeout=30).text
            ):
                break
            time.sleep(0.05)
        process.process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""  # the server has heard it
        for connection in made:
            connection.sendall(data[-1000:])
        for connection in made:
            response, body = read_answer(connection)
            assert response.error_code == 0, response.error_text
            assert len(scores(body)) == 8
            assert connection.recv(1) == b""
        assert process.process.wait(60) == 0
    with pytest.raises(ConnectionError):
        socket.create_connection(address, timeout=10)

"""Whatever is sent: a clear refusal, and a server that lives."""

from __future__ import annotations

import gzip
import json
import random
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import requests

from ghostzoo.bundle.folder import Bundle
from ghostzoo.serve.open_inference.messages import SERVICE, message
from tests.fixtures.pictures import encoded, picture
from tests.fixtures.serving import ServerProcess, running_server

pytestmark = pytest.mark.slow

MIB = 2**20


@pytest.fixture(scope="module")
def small(tiny_bundle: Bundle) -> Iterator[ServerProcess]:
    """A server with low limits."""
    limits = ["--max-body-mb", "1", "--max-images", "3", "--max-pixels", "100000", "--deadline", "3"]
    with running_server("--model", str(tiny_bundle.path), *limits) as process:
        yield process


@pytest.fixture(autouse=True)
def _still_alive(small: ServerProcess, http: requests.Session, jpeg: bytes) -> Iterator[None]:
    yield
    assert http.post(f"{small.http}/v1/classify", data=jpeg).status_code == 200


def request_info(server: ServerProcess, *parts: bytes) -> bytes:
    """Send raw bytes on a connection of their own and return all that comes back."""
    with socket.create_connection(server.host_and_port, timeout=30) as connection:
        received = b""
        try:
            for part in parts:
                connection.sendall(part)
            while part := connection.recv(65536):
                received += part
        except (BrokenPipeError, ConnectionResetError):
            pass
        return received


def head(path: str, **headers: object) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def test_a_limit_has_the_name_of_the_servers_option(small: ServerProcess, http: requests.Session) -> None:
    data = encoded(picture(400, 300), "JPEG")
    answer = http.post(f"{small.http}/v1/classify", data=data)
    assert "400 x 300 pixels are more than the 100000 that are decoded (--max-pixels); make it smaller" in answer.text
    answer = http.post(f"{small.http}/v1/classify", data=encoded(picture(402, 2), "PNG"))
    assert "at most 200 to 1 (--max-aspect-ratio)" in answer.text


def test_a_body_is_stopped_at_the_limit(small: ServerProcess, http: requests.Session) -> None:
    url = f"{small.http}/v1/classify"
    for data in (bytes(3 * MIB), (bytes(MIB) for _ in range(3))):  # with a length, and in chunks
        answer = http.post(url, data=data, headers={"Content-Type": "image/png"})
        assert answer.status_code == 413
        assert str(MIB) in answer.json()["error"]
    bomb = zlib.compress(bytes(100 * MIB), 9)
    assert len(bomb) < MIB
    answer = http.post(url, data=bomb, headers={"Content-Encoding": "deflate"})
    assert answer.status_code == 413


def test_all_bodies_together_are_bounded(tiny_bundle: Bundle, jpeg: bytes) -> None:
    limits = ("--max-body-mb", "1", "--max-buffered-mb", "1")
    with running_server("--model", str(tiny_bundle.path), *limits) as server:
        url = f"{server.http}/v1/classify"
        padded = jpeg + bytes(MIB // 2)  # a decoder stops at the image's end
        with socket.create_connection(server.host_and_port, timeout=30) as other:
            other.sendall(head("/v1/classify", Content_Length=MIB) + bytes(MIB * 3 // 4))  # and its end does not come
            end = time.monotonic() + 30
            while (
                f"ghostzoo_buffered_bytes {MIB * 3 // 4}.0"
                not in requests.get(f"{server.http}/metrics", timeout=60).text
            ):
                assert time.monotonic() < end
            answer = requests.post(url, data=padded, timeout=60)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert "too many large requests" in answer.json()["error"]
            assert requests.post(url, data=jpeg, timeout=60).status_code == 200  # a small one still fits
            pixels = message("ModelInferRequest").InferInputTensor(name="images", datatype="BYTES", shape=[1])
            call = message("ModelInferRequest")(model_name="tiny", inputs=[pixels], raw_input_contents=[padded])
            with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/{SERVICE}/ModelInfer", type(call).SerializeToString)(call, timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "too many large requests" in caught.value.details()
        while requests.post(url, data=padded, timeout=60).status_code != 200:  # what the other one had is free again
            assert time.monotonic() < end


@pytest.mark.parametrize(
    "path",
    ["/v1/classify", "/image-classification", "/tiny/prediction", "/v2/models/tiny/infer", "/v2/repository/index"],
)
@pytest.mark.parametrize("key", ["images", "inputs", "other"])
def test_json_of_countless_values_is_not_parsed(small: ServerProcess, path: str, key: str) -> None:
    body = b'{"%s":[%s1]}' % (key.encode(), b"1," * (MIB // 2 - 20))
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = requests.post(small.http + path, data=gzip.compress(body), headers=headers, timeout=60)
    assert (answer.status_code, "values" in answer.text) == (413, True)


def test_a_body_has_one_compressed_part(small: ServerProcess, jpeg: bytes) -> None:
    for parts in (gzip.compress(jpeg) * 2, gzip.compress(jpeg) + b"more"):
        answer = requests.post(
            f"{small.http}/v1/classify", data=parts, headers={"Content-Encoding": "gzip"}, timeout=60
        )
        assert (answer.status_code, "one compressed part" in answer.text) == (400, True)


def test_who_asks_first_is_refused_before_sending(small: ServerProcess) -> None:
    answer = request_info(small, head("/v1/classify", Content_Length=10**12, Expect="100-continue"))
    assert answer.removeprefix(b"HTTP/1.1 100 \r\n").partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 413 ")


def test_image_bombs(small: ServerProcess, http: requests.Session) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for width, height in ((60000, 60000), (2**31 - 1, 2**31 - 1), (400, 300), (100000, 1)):
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        pixels = zlib.compress(bytes(1000))
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
        answer = http.post(f"{small.http}/v1/classify", data=png)
        assert answer.status_code == 422
        assert f"{width} x {height}" in answer.json()["images"][0]["error"]


def test_too_many_images(small: ServerProcess, http: requests.Session, jpeg: bytes) -> None:
    url = f"{small.http}/v1/classify"
    answer = http.post(url, files=[("files", ("a.jpg", jpeg))] * 4)
    assert answer.status_code == 413
    answer = http.post(url, json={"images": [{"base64": ""}] * 4})
    assert answer.status_code == 413
    tensor = {"name": "images", "shape": [4], "datatype": "BYTES", "data": [""] * 4}
    answer = http.post(f"{small.http}/v2/models/tiny/infer", json={"inputs": [tensor]})
    assert answer.status_code == 413


def test_gigantic_headers(small: ServerProcess) -> None:
    """A client that sends on meanwhile may find the connection closed, and not hear why."""
    start = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    assert request_info(small, start + b"X-Long: " + b"a" * 40_000).startswith(b"HTTP/1.1 431 ")
    assert request_info(small, b"GET /" + b"a" * 40_000).startswith(b"HTTP/1.1 431 ")
    for line in (
        b"X-Long: " + b"a" * MIB,
        b"\r\n".join(b"X-%d: %s" % (index, b"a" * 100) for index in range(2000)),
        b"X-Endless: " + b"a" * (64 * MIB),
    ):
        assert request_info(small, start + line + b"\r\n\r\n")[:13] in (b"HTTP/1.1 431 ", b"")


def test_what_follows_a_body_is_limited_as_headers_are(small: ServerProcess) -> None:
    chunked = head("/v1/classify", Transfer_Encoding="chunked") + b"1\r\na\r\n0\r\n"
    assert request_info(small, chunked + b"X-Trailer: " + b"a" * 40_000).startswith(b"HTTP/1.1 431 ")
    answer = request_info(small, chunked, *[b"X-Trailer: " + b"a" * 200_000] * 5)
    assert answer[:13] in (b"HTTP/1.1 431 ", b"")  # as in the test before


def test_what_is_no_http(small: ServerProcess) -> None:
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET\r\n", b"\0" * 100):
        assert request_info(small, data + b"\r\n\r\n")[:12] == b"HTTP/1.1 400"
    assert request_info(small, b"POST /v1/classify HTTP/9.9\r\nHost: localhost\r\n\r\n")[:12] == b"HTTP/1.1 505"


def test_a_body_that_does_not_come(small: ServerProcess) -> None:
    answer = request_info(small, head("/v1/classify", Content_Length=1000) + b"only this")
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_clients_that_leave_early(small: ServerProcess) -> None:
    for _ in range(20):
        with socket.create_connection(small.host_and_port) as connection:
            connection.sendall(head("/v1/classify", Content_Length=1000) + b"only this")


PIXELS = 3 * 64 * 64


def infer(server: ServerProcess, content: Any, blob: bytes = b"", **headers: str) -> requests.Response:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    given = {"Inference-Header-Content-Length": str(len(text))} if blob else {}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(f"{server.http}/v2/models/tiny/infer", data=text + blob, headers=given, timeout=60)


def tensor(size: object = 4 * PIXELS, **changes: object) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    whole = {"name": "pixel_values", "shape": [1, 3, 64, 64], "datatype": "FP32", "parameters": parameters}
    return {"inputs": [whole | changes]}


@pytest.mark.parametrize(
    ("content", "blob"),
    [
        (tensor(), bytes(4 * PIXELS - 1)),
        (tensor(), bytes(4 * PIXELS + 1)),
        (tensor(10**15), bytes(100)),
        (tensor(-5), bytes(100)),
        (tensor("12"), bytes(100)),
        (tensor(True), bytes(100)),
        (tensor(100), bytes(100)),
        (tensor(shape=[10**9, 3, 64, 64]), bytes(100)),
        (tensor(shape=[10**30, 3, 64, 64]), bytes(100)),
        (tensor(shape=[-1, 3, 64, 64]), bytes(4 * PIXELS)),
        (tensor(shape=[0, 3, 64, 64]), bytes(4 * PIXELS)),
        (tensor(shape=[1, 3, 32, 128]), bytes(4 * PIXELS)),
        (tensor(shape=[1, 3, 64, 64] * 3), bytes(4 * PIXELS)),
        (tensor(shape=[]), bytes(4 * PIXELS)),
        (tensor(datatype="FP64"), bytes(8 * PIXELS)),
        (tensor(datatype="BYTES"), bytes(4 * PIXELS)),
        (tensor(name="other"), bytes(4 * PIXELS)),
        (tensor(data=[0.0]), bytes(4 * PIXELS)),
        (tensor(8, name="images", shape=[1], datatype="BYTES"), b"\xff\xff\xff\xffabcd"),
        (tensor(8, name="images", shape=[3], datatype="BYTES"), b"\x01\0\0\0abcd"),
        (tensor(3, name="images", shape=[1], datatype="BYTES"), b"\x01\0\0"),
        (tensor(data=[0.0] * 5, parameters={}), b""),
        (tensor(data=["a"] * PIXELS, parameters={}), b""),
        (tensor(data=[[1, 2], [3]], parameters={}), b""),
        (tensor(data=[None] * PIXELS, parameters={}), b""),
        (tensor(data=[10**400] * PIXELS, parameters={}), b""),
        (tensor(data=[1e39] * PIXELS, parameters={}), b""),
        (tensor(parameters={}), b""),
        ({"inputs": []}, b""),
        ({"inputs": [tensor()["inputs"][0]] * 2}, bytes(8 * PIXELS)),
        ({}, b""),
        ([], b""),
        (b"{" * 5000, b""),
        (b"[" * 100_000, b""),
        (b'{"inputs": NaN}', b""),
        (b"\xff\xfe", b""),
        (b"", b""),
    ],
)
def test_lying_and_broken_tensors(small: ServerProcess, content: Any, blob: bytes) -> None:
    answer = infer(small, content, blob)
    assert 400 <= answer.status_code < 500, answer.text
    assert list(answer.json()) == ["error"]


def test_values_that_are_no_numbers(small: ServerProcess) -> None:
    answer = infer(small, tensor(), struct.pack("<f", float("nan")) * PIXELS)
    assert (answer.status_code, "not finite" in answer.text) == (422, True)


@pytest.mark.parametrize("length", ["-1", "x", "", "1e3", "99999999999999999999", "1000000", "\u00b2"])
def test_lying_lengths_of_the_json(small: ServerProcess, length: str) -> None:
    answer = infer(small, tensor(), bytes(4 * PIXELS), Inference_Header_Content_Length=length)
    assert answer.status_code == 400


def test_mutations_of_good_requests(small: ServerProcess) -> None:
    """Seeded damage to whole requests: never a 5xx."""
    rng = random.Random(0)  # noqa: S311
    content = json.dumps(tensor()).encode()
    good = content + bytes(4 * PIXELS)
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n%s\r\n--b--\r\n'
    image = encoded(picture(90, 70), "JPEG")
    for _ in range(60):
        for body, path, headers in (
            (good, "/v2/models/tiny/infer", {"Inference-Header-Content-Length": str(len(content))}),
            (form % image, "/v1/classify", {"Content-Type": "multipart/form-data; boundary=b"}),
            (image, "/v1/classify", {"Content-Type": "image/jpeg"}),
        ):
            damaged = bytearray(body)
            for _ in range(rng.randint(1, 8)):
                damaged[rng.randrange(min(len(damaged), 400))] = rng.randrange(256)
            del damaged[rng.randrange(len(damaged)) :]
            answer = requests.post(small.http + path, data=bytes(damaged), headers=headers, timeout=60)
            assert answer.status_code < 500, (answer.text, bytes(damaged[:400]))

"""bRPC's packets, as clients of Paddle Serving's C++ server send them, against a real server."""

from __future__ import annotations

import base64
import gzip
import socket
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.images.decode import read_image
from ghostzoo.images.transform import preprocess
from ghostzoo.serve.brpc.messages import message
from ghostzoo.serve.brpc.server import SERVICE
from tests.fixtures.serving import ServerProcess, running_server

pytestmark = pytest.mark.slow
KEY = "0123456789abcdef-test"


@pytest.fixture(scope="module")
def address(tiny_bundle: Bundle) -> Iterator[tuple[str, int]]:
    limits = ("--brpc-port", "0", "--max-body-mb", "4", "--max-images", "8")
    with running_server("--model", str(tiny_bundle.path), *limits, env={"GHOSTZOO_API_KEY": KEY}) as process:
        yield place_of(process)


def place_of(process: ServerProcess) -> tuple[str, int]:
    (line,) = process.lines_with(message="ghostzoo serves")
    host, _, port = line["brpc"].rpartition(":")
    return host, int(port)


def ask(address: tuple[str, int], data: bytes, key: str = KEY, **changes: Any) -> tuple[Any, bytes]:
    meta = message("RpcMeta")(correlation_id=7, authentication_data=key.encode(), **changes.pop("meta", {}))
    meta.request.service_name, meta.request.method_name = SERVICE, changes.pop("method", "inference")
    encoded = meta.SerializeToString()
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(struct.pack(">4sII", b"PRPC", len(encoded) + len(data), len(encoded)) + encoded + data)
        with connection.makefile("rb") as file:
            magic, size, meta_size = struct.unpack(">4sII", file.read(12))
            assert magic == b"PRPC"
            body = file.read(size)
    answer = message("RpcMeta").FromString(body[:meta_size])
    assert answer.correlation_id == 7
    return answer.response, body[meta_size:]


def scores(data: bytes) -> Any:
    (tensor,) = message("Response").FromString(data).outputs[0].tensor
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
    response, body = ask(address, gzip.compress(encoded["raw"]), meta={"compress_type": 2})
    np.testing.assert_allclose(scores(body), expected, atol=1e-5)


def test_refusals_have_brpcs_codes(address: tuple[str, int], jpeg: bytes) -> None:
    request, tensor = message("Request"), message("Tensor")
    good = request(tensor=[tensor(elem_type=20, data=[jpeg])]).SerializeToString()
    bad = request(tensor=[tensor(elem_type=20, data=[b"no image"])]).SerializeToString()
    many = request(tensor=[tensor(elem_type=20, data=[jpeg] * 9)]).SerializeToString()
    for code, text, given in (
        (1004, "requires its API key", {"data": good, "key": "wrong"}),
        (1002, "no method", {"data": good, "method": "debug"}),
        (1003, "Compression 1 is not read", {"data": good, "meta": {"compress_type": 1}}),
        (1003, "larger than the 4194304 bytes", {"data": bytes(5 * 2**20)}),
        (1003, "from 1 to 8", {"data": many}),
        (1003, "Image 0", {"data": bad}),
        (1003, "cannot be decoded", {"data": b"\xff" * 20}),
        (1003, "fields", {"data": b"\x0a\x00" * 1_000_000}),
    ):
        response, _ = ask(address, **given)
        assert (response.error_code, text in response.error_text) == (code, True), response.error_text

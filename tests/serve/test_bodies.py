"""Bodies that are cheap to send and dear to read: what they cost the server and other clients."""

from __future__ import annotations

import base64
import gzip
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest
import requests

from ghostzoo._utils.hardware import usable_cpus
from ghostzoo.bundle.folder import Bundle
from ghostzoo.converter import convert
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.network.architecture import Architecture
from ghostzoo.serve.request_errors import RequestError
from ghostzoo.serve.schemas import decode_base64
from tests.conftest import make_tiny_bundle
from tests.fixtures.networks import random_arrays, write_weights
from tests.fixtures.pictures import encoded, picture
from tests.fixtures.serving import ServerProcess, running_server
from tests.fixtures.watching import watched

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the server's memory from /proc"),
]

MIB = 2**20
BUDGET_MB = 256
SLACK_MB = 150
"""For what no budget counts: threads, buffers of sockets, heaps that have holes."""
SECONDS = 5.0
"""The longest that another client may wait for /healthz, on a slow machine with one processor."""
PIXELS = 3 * 224 * 224


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, jpeg: bytes) -> Iterator[ServerProcess]:
    """Of a model for images as large as ImageNet's: a call of it takes many numbers."""
    bundle = make_tiny_bundle(tmp_path_factory.mktemp("tiny224") / "tiny", image_size=224)
    with running_server("--model", str(bundle.path), "--max-buffered-mb", str(BUDGET_MB)) as process:
        assert requests.post(f"{process.http}/v1/classify", data=jpeg, timeout=60).status_code == 200
        yield process


def post(server: ServerProcess, path: str, body: bytes | Iterable[bytes], **headers: str) -> requests.Response:
    given = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(server.http + path, data=body, headers=given, timeout=120)


def names(size: int) -> bytes:
    return b",".join(b'"%07x":1' % index for index in range(size // 12))


@pytest.mark.parametrize(
    "content",
    [
        lambda: b'{"inputs":[],"parameters":{%s}}' % names(60 * MIB),
        lambda: b'{"inputs":[%s{}]}' % (b"{}," * (9 * MIB)),
        lambda: b'{"inputs":[],"outputs":[%s{}]}' % (b'{"name":""},' * (5 * MIB)),
        lambda: b'{"inputs":[],"parameters":{"a":[%s[]]}}' % (b"[]," * (9 * MIB)),
        lambda: b'{"inputs":[],"parameters":{"a":[%s""]}}' % (b'"a",' * (9 * MIB)),
        lambda: b'{"inputs":[],"parameters":{"a":[%s0]}}' % (b"1e1," * (9 * MIB)),
        lambda: b'{"inputs":[],"parameters":{"a":[%s0]}}' % (b"%s, -" % (b"1" * 19) * 10_000),
        lambda: b'{"inputs":[],"parameters":{"a":[%s0]}}' % (b"0.%s, -" % (b"1" * 26) * 10_000),
        lambda: b'{"inputs":[],"parameters":{"a":"%s"}}' % ("é".encode() * 30 * MIB),
    ],
    ids=["names", "objects", "names in objects", "lists", "texts", "numbers", "long numbers", "fractions", "wide"],
)
def test_json_of_much_structure_is_not_parsed(server: ServerProcess, content: Callable[[], bytes]) -> None:
    body = content()
    with watched(server) as found:
        answer = post(server, "/v2/models/tiny/infer", body)
    assert answer.status_code == 413, answer.text[:500]
    assert "more than the" in answer.text
    assert found.longest_answer < SECONDS
    assert found.grown_mb < len(body) / MIB + SLACK_MB


def test_a_request_of_images_has_few_objects(server: ServerProcess) -> None:
    answer = post(server, "/v1/classify", b'{"images":[%s{}]}' % (b"{}," * 20_000))
    assert (answer.status_code, "more than the" in answer.text) == (413, True)


def test_many_small_bodies_that_swell(server: ServerProcess) -> None:
    body = gzip.compress(bytes(64 * MIB), 9)
    assert len(body) < 70_000
    with watched(server) as found, ThreadPoolExecutor(40) as pool:
        sent = [
            pool.submit(post, server, "/v1/classify", body, Content_Type="image/png", Content_Encoding="gzip")
            for _ in range(40)
        ]
        answers = [each.result() for each in sent]
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {422, 503}
    assert statuses[503]
    assert all(answer.headers["Retry-After"] for answer in answers if answer.status_code == 503)
    assert found.longest_answer < SECONDS
    workers = usable_cpus() + 1
    assert found.grown_mb < BUDGET_MB + workers * 64 + SLACK_MB  # a worker may still have what was refused


def tensor_body(images: int) -> bytes:
    numbers = b",".join([b"0.12345"] * (images * PIXELS))
    text = b'{"inputs":[{"name":"pixel_values","shape":[%d,3,224,224],"datatype":"FP32","data":[%s]}]}'
    return text % (images, numbers)


def test_the_largest_tensor_in_json(server: ServerProcess) -> None:
    content = tensor_body(6)
    with watched(server) as found, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(server, "/v2/models/tiny/infer", content), range(8)))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200]
    assert set(statuses) <= {200, 503}
    assert found.longest_answer < SECONDS
    assert found.grown_mb < 2 * BUDGET_MB  # as the security model says
    answer = post(server, "/v2/models/tiny/infer", tensor_body(7))
    assert (answer.status_code, "binary tensor" in answer.text) == (413, True)


def test_texts_among_numbers(server: ServerProcess) -> None:
    """NumPy gives every text of an array the space of the longest."""
    data = ["7" * (16 * MIB)] + ["7"] * (PIXELS - 1)
    for values in (data[:900], [data[:30]] * 30, [0.5, "7"], [[1.0], 2.0], [True] * PIXELS):
        tensor = {"name": "pixel_values", "shape": [1, 3, 224, 224], "datatype": "FP32", "data": values}
        answer = post(server, "/v2/models/tiny/infer", json.dumps({"inputs": [tensor]}).encode())
        assert answer.status_code in (400, 413), answer.text[:500]


def test_base64_in_lines(server: ServerProcess, jpeg: bytes) -> None:
    lines = base64.encodebytes(jpeg + bytes(8 * MIB)).decode()
    body = json.dumps({"images": [{"base64": lines.replace("\n", "\r\n")}]}).encode()
    with watched(server) as found:
        answer = post(server, "/v1/classify", body)
    assert answer.status_code == 200
    assert found.longest_answer < SECONDS
    assert found.grown_mb < 2 * BUDGET_MB  # as the security model says
    answer = post(server, "/v1/classify", b'{"images":[{"base64":"%s"}]}' % (b"A\\n" * (12 * MIB)))
    assert (answer.status_code, "escaped characters" in answer.text) == (413, True)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 3 * MIB // 4, 3 * MIB + 1, 4 * MIB - 1])
def test_base64_is_decoded_in_steps(length: int) -> None:
    data = bytes(range(256)) * (length // 256 + 1)
    data = data[:length]
    assert decode_base64(base64.b64encode(data).decode()) == data
    assert decode_base64("data:image/jpeg;base64," + base64.encodebytes(data).decode()) == data


@pytest.mark.parametrize("text", ["a", "ab=c", "QQ==QQ==", "!", "QQ==" + "A" * 2 * MIB, "A" * (MIB - 4) + "QQ==AAAA"])
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(RequestError, match="not valid base64") as caught:
        decode_base64(text)
    assert "other than ASCII" not in str(caught.value)
    with pytest.raises(RequestError, match="other than ASCII"):
        decode_base64(text + "é")


def test_a_request_that_can_never_fit_is_not_told_to_come_back(tiny_bundle: Bundle) -> None:
    limits = ("--max-body-mb", "16", "--max-buffered-mb", "16")
    with running_server("--model", str(tiny_bundle.path), "--no-grpc", *limits) as server:
        for body in (
            b'{"images":[{"base64":"%s"}]}' % (b"A" * (8 * MIB)),
            b'{"images":[{"name":"\xc3\xa9","base64":"%s"}]}' % (b"A" * (4 * MIB)),
        ):
            answer = post(server, "/v1/classify", body)
            assert (answer.status_code, "more memory" in answer.text) == (413, True)


def test_an_error_does_not_repeat_what_was_sent(server: ServerProcess) -> None:
    for body in (
        b'{"images":[{}],"%s":1}' % (b"a" * MIB),
        b'{"images":[{"base64":"%s"}]}' % ("é".encode() * (MIB // 4)),
    ):
        answer = post(server, "/v1/classify", body)
        assert answer.status_code in (400, 422)
        assert len(answer.content) < 1000


def test_a_compressed_body_that_holds_nothing(server: ServerProcess) -> None:
    """Of empty blocks there is no end."""
    blocks = (b"\x00\x00\x00\xff\xff" * MIB for _ in range(14))
    answer = post(
        server, "/v1/classify", chain([b"\x78\x9c"], blocks), Content_Type="image/png", Content_Encoding="deflate"
    )
    assert answer.status_code == 413


def test_answers_of_many_classes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Writing a large answer stops others as little as reading a large request does."""
    arrays = random_arrays(Architecture.of(0.25, 1000), 0)
    weights = write_weights(tmp_path_factory.mktemp("many") / "many.pdparams", arrays)
    labels = [f"class of a long name, {index}" for index in range(1000)]
    preprocessing = Preprocessing(resize_short=40, crop_size=32)
    bundle = convert(weights, weights.with_suffix(""), name="many", labels=labels, preprocessing=preprocessing)
    image = base64.b64encode(encoded(picture(40, 40), "PNG")).decode()
    images = {"images": [{"base64": image}] * 64, "top_k": 1000}
    tensor = {"name": "images", "shape": [64], "datatype": "BYTES", "data": [image] * 64}
    outputs = [{"name": name, "parameters": {"classification": 1000}} for name in ("logits", "scores")]
    with running_server("--model", str(bundle.path), "--queue-size", "2000") as server:
        for path, content in (
            ("/v1/classify", images),
            ("/v2/models/many/infer", {"inputs": [tensor], "outputs": outputs}),
            ("/v2/models/many/infer", {"inputs": [tensor]}),
        ):
            body = json.dumps(content).encode()
            with watched(server) as found, ThreadPoolExecutor(3) as pool:
                sent = [pool.submit(post, server, path, body) for _ in range(3)]
                answers = [each.result() for each in sent]
            assert {answer.status_code for answer in answers} == {200}
            assert found.longest_answer < SECONDS
        twice = {"inputs": [tensor], "outputs": [{"name": "scores"}] * 2}
        assert post(server, "/v2/models/many/infer", json.dumps(twice).encode()).status_code == 400
